"""A server on a real loopback socket that plays scripts: for clients of HTTP, whatever a server may do to them."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

RESET = "reset"
HANG = "hang"
Step = bytes | float | str
"""Bytes to send, seconds to wait, RESET, or HANG until the client leaves. The connection closes behind the last."""


class Loopback:
    """Plays one script for each request, the last one over and over."""

    def __init__(self, scripts: Sequence[Sequence[Step]]) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.left = asyncio.Event()
        self.url = ""
        self._scripts = scripts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        size = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        self.requests.append((head, await reader.readexactly(size)))
        script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
        for step in script:
            if step == RESET:
                linger = struct.pack("ii", 1, 0)  # on, for no time: close with a reset
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            if step == HANG:
                await reader.read()
                self.left.set()
                return False
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
        return is_framed(script)


def is_framed(script: Sequence[Step]) -> bool:
    """Whether the script's answer says itself where it ends, and ends there."""
    sent = b"".join(step for step in script if isinstance(step, bytes))
    head, _, body = sent.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return b"content-length: %d\r\n" % len(body) in head + b"\r\n"


@asynccontextmanager
async def loopback(*scripts: Sequence[Step]) -> AsyncIterator[Loopback]:
    """A running server."""
    played = Loopback(scripts)
    server = await asyncio.start_server(played.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    played.url = f"http://127.0.0.1:{port}"
    try:
        yield played
    finally:
        server.close()


def whole(body: bytes, status: int = 200, content_type: bytes = b"application/json", extra: bytes = b"") -> list[Step]:
    """An answer in one piece."""
    head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
    return [head % (status, content_type, len(body), extra) + body]


def chunked(*parts: Step, end: bool = True, content_type: bytes = b"text/event-stream") -> list[Step]:
    """An answer in chunks; without `end` it breaks off."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % content_type
    steps: list[Step] = [head]
    steps += [b"%x\r\n%b\r\n" % (len(part), part) if isinstance(part, bytes) else part for part in parts]
    return [*steps, b"0\r\n\r\n"] if end else steps
