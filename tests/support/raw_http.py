"""HTTP/1.1 as bytes on a socket: requests that no library would send, and answers as they came."""

import asyncio
import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from tests.support.processes import KEY

T = TypeVar("T")

ANSWER_TIMEOUT_S = 15.0
CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"


class Answer(NamedTuple):
    """A whole answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """What stands under `error` in its body."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def chat(tokens: int = 5, *, stream: bool = True, **sim: Any) -> dict[str, Any]:
    """The body of a chat of just so many tokens; `sim` goes to the simulated server (docs/sim.md)."""
    wish = {"tokens": tokens, "tokens_per_s": 0, **sim}
    messages = [{"role": "user", "content": "Hello!"}]
    return {"model": "sim-small", "stream": stream, "messages": messages, "sim": wish}


def head(path: str = CHAT, method: str = "POST", **headers: str) -> bytes:
    """A request's head with the test key; `content_length="5"` becomes a header field."""
    fields = {"host": "gateway", "authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def request(body: dict[str, Any] | bytes, path: str = CHAT, **headers: str) -> bytes:
    """A whole POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, **{"content_length": str(len(data)), **headers}) + data


class Wire:
    """A client connection. Every wait for the server has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.headers: dict[str, str] = {}

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def ask(self, data: bytes) -> Answer:
        """Send a request and wait for the whole answer."""
        self.send(data)
        status = await self.read_head()
        return Answer(status, self.headers, b"".join([part async for part in self.parts()]))

    async def read_head(self) -> int:
        """The status of the next answer; its header fields are in `headers`."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.rstrip("\r\n").split("\r\n")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split(" ")[1])

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as the server framed it. Raises asyncio.IncompleteReadError if it breaks off."""
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            yield await self._exactly(int(self.headers.get("content-length", "0")))
            return
        while size := int(await self._line(), 16):
            yield (await self._exactly(size + 2))[:-2]
        await self._line()

    async def events(self, count: int) -> int:
        """Wait until so many events came, or the body's end; how many came."""
        seen = 0
        if count:
            async for part in self.parts():
                seen += part.count(b"data: ")
                if seen >= count:
                    break
        return seen

    async def closed(self) -> bytes:
        """Wait until the server closes the connection; what it sent before (a reset may have swallowed that)."""
        said = b""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            with suppress(ConnectionError):
                while data := await self.reader.read(65536):
                    said += data
        return said

    def vanish(self, *, reset: bool = False) -> None:
        """Leave without a word, or with a TCP reset."""
        if reset:
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def _line(self) -> bytes:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            line = await self.reader.readuntil(b"\n")
        return line.strip()

    async def _exactly(self, size: int) -> bytes:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await self.reader.readexactly(size)


@asynccontextmanager
async def wire(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=1 << 22)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    async with wire(port) as connection:
        return await connection.ask(data)


async def eventually(check: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Like `processes.until`, while the event loop goes on."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")
