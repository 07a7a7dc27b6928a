"""Attacks on the doors of a gateway from one address of this machine, beside honest callers from another.

An attack is a process of its own: it must not slow down those whose waiting is measured. Each is bounded in connections
and ends when its time is over.
"""

import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import KEY

ATTACKER = "127.0.0.2"
ROOT = Path(__file__).resolve().parents[2]
METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
LARGEST = 32 << 20
SLOW_MODEL = "slow-" + "m" * 8000
"""Each event names its model: with such a name few events fill the buffers of the kernel."""


class Attacker:
    """Connections of one address that do something bad until their time is over. `done` counts what was tried."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.until_s = time.monotonic() + seconds
        self.done = 0
        self.loop = asyncio.get_running_loop()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until_s

    async def connect(self, window_bytes: int = 0) -> socket.socket:
        """A socket; with a small window it takes little that is not read."""
        client = socket.socket()
        if window_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        # Closed with a reset: ports that wait for a minute would soon be all there are, and the attack over.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.setblocking(False)
        client.bind((ATTACKER, 0))
        await self.loop.sock_connect(client, ("127.0.0.1", self.port))
        return client

    async def send(self, client: socket.socket, data: bytes, timeout_s: float = 5.0) -> None:
        """Send as much as is taken within a while."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.loop.sock_sendall(client, data)

    async def hold(self, client: socket.socket) -> None:
        """Read nothing until the end, or until the server closes."""
        while self.goes_on:
            await asyncio.sleep(0.25)
            try:
                if client.recv(1, socket.MSG_PEEK) == b"":
                    return
            except BlockingIOError:
                continue
            except OSError:
                return

    async def repeat(self, count: int, one: Callable[[], Awaitable[None]]) -> None:
        """So many at once, again and again."""

        async def go_on() -> None:
            while self.goes_on:
                self.done += 1
                with suppress(OSError):
                    await one()
                await asyncio.sleep(0.01)

        await asyncio.gather(*(go_on() for _ in range(count)))


async def unread(attacker: Attacker) -> None:
    """Metrics, asked for by the thousand on few connections and never read."""

    async def one() -> None:
        with await attacker.connect(4096) as client:
            await attacker.send(client, METRICS * 60_000)
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await attacker.hold(client)

    await attacker.repeat(8, one)


async def reading(attacker: Attacker) -> None:
    """Metrics and health by the thousand, read as fast as they come."""

    async def one() -> None:
        with await attacker.connect() as client:
            data = (METRICS + METRICS.replace(b"/metrics", b"/health")) * 500
            sending = asyncio.ensure_future(attacker.send(client, data))
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while await attacker.loop.sock_recv(client, 1 << 18):
                        pass
            sending.cancel()

    await attacker.repeat(20, one)


async def mixed(attacker: Attacker) -> None:
    """Pipelines of good, split and malformed requests, from many connections."""
    choose = random.Random(3)
    kinds = [
        METRICS,
        METRICS.replace(b"/metrics", b"/health"),
        CHAT + b"Content-Length: 5\r\n\r\nhello",
        CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 2000 + b"0\r\n\r\n",
        b"\r\n" * 200,
        b"GET /x HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        CHAT + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ]

    async def one() -> None:
        with await attacker.connect() as client:
            for _ in range(20):
                data = b"".join(choose.choices(kinds, [30, 30, 5, 3, 2, 1, 1, 1], k=choose.randrange(1, 200)))
                cut = choose.randrange(len(data))
                await attacker.send(client, data[:cut], 1)
                await asyncio.sleep(choose.random() / 50)
                await attacker.send(client, data[cut:], 1)
                with suppress(BlockingIOError):
                    if choose.random() < 0.5 and client.recv(1 << 18) == b"":
                        return

    await attacker.repeat(40, one)


async def idle(attacker: Attacker) -> None:
    """More connections than there may be, with nothing or the half of a head on them."""
    choose = random.Random(4)
    head = METRICS[:-2] + b"X: " + b"y" * 50_000

    async def one() -> None:
        client = await attacker.connect()
        clients.append(client)
        if choose.random() < 0.3:
            await attacker.send(client, head[: choose.randrange(len(head))], 1)
        if len(clients) > 10_500:
            clients.pop(0).close()

    clients: list[socket.socket] = []
    await attacker.repeat(50, one)


async def stalled(attacker: Attacker) -> None:
    """Uploads that stop just before their end, with a wrong key."""
    head = CHAT + b"Authorization: Bearer sk-wrong\r\nContent-Length: %d\r\n\r\n" % LARGEST
    upload = head + b"y" * (LARGEST - 1)  # made once: the machine is to be busy with the gateway

    async def one() -> None:
        with await attacker.connect() as client:
            await attacker.send(client, upload)
            await attacker.hold(client)

    await attacker.repeat(60, one)


async def refused(attacker: Attacker) -> None:
    """Large bodies behind requests that are refused at once, sent on and on."""
    head, piece = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (1 << 33), b"y" * (1 << 20)

    async def one() -> None:
        with await attacker.connect() as client:
            await attacker.send(client, head + piece)
            for _ in range(100):
                await attacker.send(client, piece)
                await asyncio.sleep(0.05)

    await attacker.repeat(20, one)


async def slow(attacker: Attacker) -> None:
    """Streams with a good key that are read a few bytes at a time, or not at all."""
    body = json.dumps({
        "model": SLOW_MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}],
        "sim": {"tokens": 3000, "tokens_per_s": 0},
    }).encode()  # fmt: skip

    async def one() -> None:
        with await attacker.connect(4096) as client:
            head = CHAT + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(body))
            await attacker.send(client, head + body)
            while attacker.goes_on:
                await asyncio.sleep(0.2)
                with suppress(BlockingIOError):
                    if client.recv(100) == b"":
                        return

    await attacker.repeat(15, one)


ATTACKS = {
    "unread": unread,
    "reading": reading,
    "mixed": mixed,
    "idle": idle,
    "stalled": stalled,
    "refused": refused,
    "slow": slow,
}


class Seen(NamedTuple):
    """What honest callers and the gateway's memory saw of an attack."""

    waits_s: list[float]
    tried: int
    peak_bytes: int


async def _run(name: str, port: int, seconds: float) -> int:
    attacker = Attacker(port, seconds)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds + 1):
            await ATTACKS[name](attacker)
    return attacker.done


def begin(name: str, port: int, seconds: float) -> subprocess.Popen[str]:
    """An attack in a process of its own; it prints how often it tried."""
    arguments = [sys.executable, "-m", "tests.support.attacks", name, str(port), str(seconds)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(asyncio.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
