"""A guarded server with a small application that does what its paths say, and a client that sees every byte."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from tests.support.scripted_server import DEADLINE_S
from zuebee.http.server import CROWD, HttpServer, ReceiveLimits

LIMITS = ReceiveLimits(
    header_timeout_s=5,
    body_timeout_s=5,
    body_min_bytes_per_s=1 << 30,
    write_timeout_s=5,
    max_headers=20,
    max_header_bytes=4096,
    max_connections=50,
    max_connections_per_address=50,
    max_discarded_bytes=1 << 26,
)

REFUSED = b"refused" * 300


class App:
    """An ASGI application. `dispatched` lists the requests it got, `cancelled` those whose client left."""

    def __init__(self) -> None:
        self.dispatched: list[str] = []
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.cancelled: list[str] = []
        self.go = asyncio.Event()
        self.written_bytes = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        self.dispatched.append(f"{scope['method']} {path}")
        self.scopes.append(scope)
        try:
            await getattr(self, "do_" + path.strip("/").split("/")[0], self.do_hello)(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled.append(path)
            raise

    async def do_hello(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await _answer(send, scope["raw_path"])

    async def do_echo(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        await _answer(send, body)

    async def do_wait_for(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.do_echo(scope, receive, _ignore)
        await self.go.wait()

    async def do_late_echo(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.go.wait()
        await self.do_echo(scope, receive, send)

    async def do_wait(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self.go.wait()
        await _answer(send, scope["raw_path"])

    async def do_stream(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await self.go.wait()
        await send({"type": "http.response.body", "body": b"ended", "more_body": False})

    async def do_outlive(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Goes on when its client leaves, unless the path ends in `no`."""
        self.asked = 0

        def goes_on() -> bool:
            self.asked += 1
            return not scope["path"].endswith("no")

        scope["zuebee.cycle"].goes_on = goes_on
        await self.do_stream(scope, receive, send)
        assert scope["zuebee.cycle"].write(b"more")
        await scope["zuebee.cycle"].drain()
        self.written_bytes = scope["zuebee.cycle"].written_bytes
        self.bodies.append(b"done")

    async def do_flood(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"y" * 65536, "more_body": True})
            self.written_bytes += 65536

    async def do_large(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await _answer(send, b"y" * int(scope["path"].split("/")[2]))

    async def do_refuse(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers before the body was read, and takes no other request on this connection."""
        headers = [(b"content-length", b"%d" % len(REFUSED)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSED, "more_body": False})

    async def do_crash(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise RuntimeError("the application is broken")

    async def do_crash_late(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise RuntimeError("the application is broken")


async def _ignore(message: dict[str, Any]) -> None:
    pass


async def _answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def render_error(status: int, code: str, message: str, peer: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"text/plain")], code.encode()


class Answer(NamedTuple):
    """One answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A client's raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer, whole."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", status_line)[1])  # type: ignore[index]
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines), f"a field is repeated: {lines}"
        if status < 200 or to_head:
            return Answer(status, headers, b"")
        if "content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        if headers.get("transfer-encoding") != "chunked":
            return Answer(status, headers, await self.reader.read(-1))
        body = b""
        while size_bytes := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size_bytes + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"
        return Answer(status, headers, body)

    async def ended(self) -> bool:
        """Whether the server closes the connection without another word."""
        return await self.rest() == b""

    async def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while part := await self.reader.read(65536):
                data += part
        return data

    def close(self) -> None:
        self.writer.transport.abort()


class Site:
    """A running server, its application, and connections to it."""

    def __init__(self, server: HttpServer, app: App, port: int) -> None:
        self.server = server
        self.app = app
        self.port = port
        self._wires: list[Wire] = []

    async def connect(self, tls: ssl.SSLContext | None = None, *, limit_bytes: int = 1 << 20) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, limit=limit_bytes)
        wire = Wire(reader, writer)
        self._wires.append(wire)
        return wire

    async def ask(self, request: bytes) -> Answer:
        """The answer to a request on a connection of its own."""
        wire = await self.connect()
        wire.say(request)
        return await wire.answer()

    def hang_up(self) -> None:
        for wire in self._wires:
            wire.close()


@contextlib.asynccontextmanager
async def serving(
    *,
    keep_alive_s: float = 5,
    tls: ssl.SSLContext | None = None,
    sweep_s: float = 0.02,
    crowd: int = CROWD,
    proxies: tuple[str, ...] = (),
    **limits: float,
) -> AsyncIterator[Site]:
    """A server on a free port, with these of the limits changed."""
    app = App()
    server = HttpServer(
        app,
        limits=LIMITS._replace(**limits),  # type: ignore[arg-type]
        keep_alive_s=keep_alive_s,
        render_error=render_error,
        tls=tls,
        is_proxy=lambda address: address in proxies,
        sweep_interval_s=sweep_s,
        crowd=crowd,
    )
    site = Site(server, app, await server.start("127.0.0.1", 0))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield site
    finally:
        site.hang_up()
        await server.close()


async def raw(site: Site, data: bytes = b"", source: str = "127.0.0.2") -> socket.socket:
    """A connection from another address of this machine, on which nothing is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    client.bind((source, 0))
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", site.port))
    await loop.sock_sendall(client, data)
    return client


def is_open(client: socket.socket) -> bool:
    """Whether the server has not closed it."""
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
