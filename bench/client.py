"""A plain blocking HTTP client that counts every byte, and the requests that all measurements send."""

import json
import socket
import time
from dataclasses import dataclass

from bench.peers import KEY

CONTENT_EVENTS = 50
EVENTS = CONTENT_EVENTS + 1  # and `data: [DONE]`; the caller does not ask for the usage event
_READ_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """What came back. `wire_bytes` counts headers and chunk framing too.

    `first_event_s` is the time from sending the request to the first event; None if it was no event stream.
    """

    status: int
    body: bytes
    wire_bytes: int
    first_event_s: float | None


def chat_body(*, stream: bool, pause_ms: int = 1, events: int = CONTENT_EVENTS) -> bytes:
    """Build the body of a chat completion request as the openai package would write it."""
    body = {
        "messages": [
            {
                "role": "system",
                "content": "You are a patient assistant. Answer briefly. Say when you do not know.",
            },
            {"role": "user", "content": "What does a proxy between a program and a model server do all day?"},
        ],
        "model": f"paced-{pause_ms}ms",
        "max_tokens": events,
        "temperature": 0.7,
        **({"stream": True} if stream else {}),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def chat_request(body: bytes) -> bytes:
    """Put the body into a whole HTTP/1.1 request with the caller's key."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        "Content-Type: application/json\r\nUser-Agent: OpenAI/Python 1.109.1\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> Answer:
        """Send a request and read its answer to the end. Raises ConnectionError if it ends early."""
        started_s = time.perf_counter()
        self._socket.sendall(request)
        received = bytearray()
        while b"\r\n\r\n" not in received:
            self._read_into(received)
        head_end = received.index(b"\r\n\r\n") + 4
        head = bytes(received[:head_end]).lower()
        status = int(head.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" not in head:
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            while len(received) < head_end + length:
                self._read_into(received)
            return Answer(status, bytes(received[head_end:]), len(received), None)
        first_event_s = None
        while first_event_s is None or not received.endswith(b"0\r\n\r\n"):
            if first_event_s is None and b"data:" in received[head_end:]:
                first_event_s = time.perf_counter() - started_s
            else:
                self._read_into(received)
        return Answer(status, _unchunk(bytes(received[head_end:])), len(received), first_event_s)

    def close(self) -> None:
        self._socket.close()

    def _read_into(self, received: bytearray) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError(f"closed after {len(received)} bytes: {bytes(received[-200:])!r}")
        received += data


def _unchunk(data: bytes) -> bytes:
    body, rest = b"", data
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body
