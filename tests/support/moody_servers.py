"""Model servers that fail in every way and at every moment, at random, and the rule for how often they may be asked."""

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import NamedTuple

REFUSALS = ("429", "503", "529")
"""Nobody has begun, and may be asked again."""
STATUSES = ("400", "401", "408", "409", "500", "501", "502", "504", "520", "302", "303", *REFUSALS)
LOST = ("close", "reset", "die", "half head", "head and close", "head and reset", "half and close", "half and reset")
BEGUN = ("hang", "head and hang", "half and hang", "not http", "not json", "html", "empty", "error inside")
GOOD = ("good", "late")
MOODS = (*GOOD, *LOST, *BEGUN, *STATUSES)

LATE_S = 0.05
GONE_S = 0.03

OK = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'
EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ERROR = b'{"error":{"message":"no","code":500}}'


class Sending(NamedTuple):
    """One request as one server got it. `kept`: its connection had carried others before."""

    server: int
    mood: str
    kept: bool
    final: bool
    """The server said that another try is of no use."""


class MoodyServers:
    """Several servers; what they get is noted for each request, by its id."""

    def __init__(self, dice: random.Random) -> None:
        self.sendings: dict[str, list[Sending]] = {}
        self.lost: set[tuple[str, int]] = set()
        """Requests that went down with a server, be it that it died of another one."""
        self.ports: list[int] = []
        self._dice = dice
        self._listeners: list[asyncio.Server] = []
        self._open: list[dict[asyncio.StreamWriter, str]] = []  # and the last request on it
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self) -> None:
        """One more server."""
        self._open.append({})
        self.ports.append(0)
        self._listeners.append(await self._listen(len(self._listeners)))

    async def _listen(self, number: int) -> asyncio.Server:
        listener = await asyncio.start_server(
            lambda reader, writer: self._serve(number, reader, writer), "127.0.0.1", self.ports[number]
        )
        self.ports[number] = listener.sockets[0].getsockname()[1]
        return listener

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[number][writer] = ""
        count = 0
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                mood = self._dice.choice(MOODS) if self._dice.random() < 0.8 else "good"
                # 401 and a redirect speak of the gateway's key and address, not of the request.
                final = mood.isdigit() and mood not in ("401", "302") and self._dice.random() < 0.2
                sending = Sending(number, mood, count > 0, final)
                request_id = fields[b"x-request-id"].decode()
                self.sendings.setdefault(request_id, []).append(sending)
                count += 1
                self._open[number][writer] = request_id
                if writer.transport.is_closing():  # it died while this came in
                    self.lost.add((request_id, number))
                if not await self._answer(sending, b'"stream":true' in body, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, RuntimeError):
            pass
        finally:
            self._open[number].pop(writer, None)
            writer.close()

    async def _answer(self, sending: Sending, stream: bool, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        mood = sending.mood
        if mood.isdigit():
            extra = b"x-should-retry: false\r\n" if sending.final else b""
            if mood in REFUSALS:
                extra += b"retry-after-ms: %d\r\n" % self._dice.choice((0, 3))
            await self._say(writer, b"HTTP/1.1 %b No\r\nlocation: /x\r\n%b" % (mood.encode(), extra), ERROR)
            return True
        kind = b"text/event-stream" if stream else b"application/json"
        ok = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind
        content = EVENTS if stream else OK
        match mood:
            case "good" | "late":
                await asyncio.sleep(LATE_S if mood == "late" else 0)
                await self._say(writer, ok, content)
                return True
            case "not json" | "empty":
                await self._say(writer, ok, b"" if mood == "empty" else b"data: {\n\n" if stream else b"{")
                return True
            case "html":
                await self._say(writer, b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n", b"<html>")
                return True
            case "error inside":
                await self._say(writer, ok, b"data: " + ERROR + b"\n\n" if stream else ERROR)
                return True
            case "not http":
                writer.write(b"SSH-2.0\r\n\r\n")
            case "half head":
                writer.write(ok[:20])
            case "die":
                await asyncio.sleep(self._dice.choice((0, 0.02)))
                self._die(sending.server)
                return False
            case _ if mood.startswith("head"):
                writer.write(ok + b"content-length: %d\r\n\r\n" % len(content))
            case _ if mood.startswith("half"):
                # Of a stream no event that could have been passed on.
                writer.write(ok + b"content-length: %d\r\n\r\n%b" % (len(content), content[:20]))
        await asyncio.sleep(0.005)
        if mood.endswith("hang"):
            await asyncio.sleep(5)
        if mood.endswith("reset"):
            _reset(writer)
        return False

    async def _say(self, writer: asyncio.StreamWriter, head: bytes, body: bytes) -> None:
        writer.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        await writer.drain()

    def _die(self, number: int) -> None:
        """All connections end, and for a while there is nobody."""
        self._listeners[number].close()
        self.lost.update((request_id, number) for request_id in self._open[number].values())
        for writer in list(self._open[number]):
            _reset(writer)
        task = asyncio.ensure_future(self._come_back(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _come_back(self, number: int) -> None:
        await asyncio.sleep(GONE_S)
        with contextlib.suppress(OSError):  # two died at once, and the other one is back
            self._listeners[number] = await self._listen(number)

    async def close(self) -> None:
        """No servers any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        for writers in self._open:
            for writer in list(writers):
                writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    if (sock := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: on, 0 s
    writer.transport.abort()


@contextlib.asynccontextmanager
async def moody_servers(count: int, dice: random.Random) -> AsyncIterator[MoodyServers]:
    """So many servers, for as long as the context lasts."""
    servers = MoodyServers(dice)
    for _ in range(count):
        await servers.add()
    try:
        yield servers
    finally:
        await servers.close()


def breach(servers: MoodyServers, request_id: str) -> str | None:
    """Why one request was sent more often than the rule allows; None: it was not."""
    sendings = servers.sendings.get(request_id, [])
    resent = 0
    dead: set[int] = set()
    for this, then in pairwise(sendings):
        if then.server in dead:
            return f"a server that was lost with the request got it again: {sendings}"
        if this.final:
            return f"sent on though it was told not to: {sendings}"
        if this.mood in REFUSALS:
            continue
        if this.mood in ("401", "302"):
            if this.server == then.server:
                return f"who will have none of it was asked again: {sendings}"
            continue
        if this.mood not in LOST and (request_id, this.server) not in servers.lost:
            return f"bought again: {sendings}"
        resent += 1
        if not this.kept:
            dead.add(this.server)
        spoken = this.mood in ("half head", "head and close", "half and close")  # a reset may take back what was said
        if this.server == then.server and (not this.kept or spoken):
            return f"sent again where it was lost: {sendings}"
    return f"sent again {resent} times: {sendings}" if resent > 1 else None
