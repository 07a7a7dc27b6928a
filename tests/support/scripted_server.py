"""A tiny server that says exactly what a test tells it to, and counts who came."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

DEADLINE_S = 10.0


async def until(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not check():  # noqa: ASYNC110 - of what is asked here, nobody tells
            await asyncio.sleep(0.002)


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        self.requests: list[bytes] = []

    async def request(self) -> bytes:
        """The next request, whole. Raises IncompleteReadError when the client left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        size_bytes = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size_bytes = int(line.split(b":")[1])
        request = head + await self.reader.readexactly(size_bytes)
        self.requests.append(request)
        return request

    async def say(self, *parts: bytes) -> None:
        """Send each part by itself, as far as the network lets it."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, body: bytes = b"ok", status: bytes = b"200 OK", extra: bytes = b"") -> None:
        await self.say(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body))

    def reset(self) -> None:
        """Leave with a TCP reset instead of an end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: on, 0 s
        self.writer.transport.abort()

    async def gone(self) -> bytes:
        """Wait until the client leaves; what it still said."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(-1)
        return b""


Play = Callable[[Peer], Awaitable[None]]


class Server:
    """Plays the same script to each connection. Its failures are the test's."""

    def __init__(self, play: Play) -> None:
        self.peers: list[Peer] = []
        self.open = 0
        self.port = 0
        self.failures: list[BaseException] = []
        self._play = play

    @property
    def connections(self) -> int:
        return len(self.peers)

    @property
    def requests(self) -> list[bytes]:
        return [request for peer in self.peers for request in peer.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(self.peers))
        self.peers.append(peer)
        self.open += 1
        try:
            await self._play(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as failure:
            # uvloop says with a RuntimeError that the client is gone.
            if not writer.is_closing():
                self.failures.append(failure)
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def scripted(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Listen on a free port of the loopback address for as long as the context lasts."""
    server = Server(play)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield server
    finally:
        listener.close()
        for peer in server.peers:
            peer.writer.transport.abort()
        await until(lambda: server.open == 0)
    if server.failures:
        pytest.fail(f"the script failed: {server.failures[0]!r}")
