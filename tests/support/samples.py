"""Event streams that a real vLLM sent (`fixtures/vllm/*.sse`, without HTTP's chunking), and other spellings of them."""

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "vllm"

VLLM = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.sse"))}

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
