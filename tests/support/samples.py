"""Event streams that a real vLLM sent (`fixtures/vllm`, without their HTTP), and other spellings of event streams."""

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "vllm"


def unchunked(answer: bytes) -> bytes:
    """The body of a chunked answer (RFC 9112, section 7.1); empty for any other."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    body = b""
    while b"chunked" in head and rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        body += rest[:size]
        rest = rest[size + 2 :]
    return body


VLLM = {path.stem: body for path in sorted(FOLDER.glob("*stream*.raw")) if (body := unchunked(path.read_bytes()))}

_SMALL = (
    b'data: {"choices":[{"index":0,"delta":{"content":"h\xc3\xa9"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "as it came": lambda stream: stream,
    "CRLF": lambda stream: stream.replace(b"\n", b"\r\n"),
    "CR": lambda stream: stream.replace(b"\n", b"\r"),
    "BOM": lambda stream: b"\xef\xbb\xbf" + stream,
    "comments": lambda stream: b": hello\n\n" + stream.replace(b"data: {", b": in between\ndata: {"),
    "comment events": lambda stream: stream.replace(b"data: {", b": ping\n\ndata: {"),
    "other fields": lambda stream: stream.replace(b"data: {", b"event: chunk\nid: 7\nretry: 100\nfoo\ndata: {"),
    "no space": lambda stream: stream.replace(b"data: ", b"data:"),
    "many lines of data": lambda stream: stream.replace(b'"choices":', b'\ndata: "choices":'),
}

SMALL = {name: spell(_SMALL) for name, spell in SPELLINGS.items()}
BIG = {
    "64 KiB events": _SMALL.replace(b"h\xc3\xa9", b"x" * 65536),
    "64 KiB events, CRLF": _SMALL.replace(b"h\xc3\xa9", b"x" * 65536).replace(b"\n", b"\r\n"),
}
