"""Against a server on a loopback socket that speaks just enough of Redis' protocol, and misbehaves when told to."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest

from tests.support.fakes import until
from zuebee.lib import clock
from zuebee.lib.failures import RedisDown, RedisError
from zuebee.lib.redis import RedisClient


class Server:
    """`ECHO` answers its argument after `delay_s`, `EVALSHA` knows what `EVAL` was told, other words are errors."""

    def __init__(self) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.connections = 0
        self.open = 0
        self.commands: list[str] = []
        self.scripts: set[bytes] = set()
        self.mute = False
        self.hang_up = False
        self.tasks: list[Any] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.tasks.append(asyncio.current_task())
        try:
            while True:
                count = int((await reader.readline())[1:])
                words = []
                for _ in range(count):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                self.commands.append(words[0].decode())
                if self.hang_up:
                    return
                await until(lambda: not self.mute)
                await asyncio.sleep(self.delay_s)
                writer.write(self.answer(words))
        except (ValueError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    def answer(self, words: list[bytes]) -> bytes:
        match words[0]:
            case b"ECHO":
                return b"$%d\r\n%b\r\n" % (len(words[1]), words[1])
            case b"EVAL":
                self.scripts.add(words[1])
                return b":1\r\n"
            case b"EVALSHA":
                return b":1\r\n" if self.scripts else b"-NOSCRIPT No matching script.\r\n"
            case b"LOAD":
                return b"-LOADING Redis is loading the dataset in memory\r\n"
            case _:
                return b"-WRONGTYPE Operation against a key with the secret name sk-1\r\n"


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


@asynccontextmanager
async def connected(
    server: Server, timeout_s: float = 2.0, retry_after_s: float = 60.0, max_connections: int = 3
) -> AsyncIterator[RedisClient]:
    url = f"redis://127.0.0.1:{server.port}/0"
    client = RedisClient(url, timeout_s=timeout_s, max_connections=max_connections, retry_after_s=retry_after_s)
    try:
        yield client
    finally:
        await client.aclose()


async def is_left_alone(client: RedisClient) -> None:
    with pytest.raises(RedisDown, match="left alone"):
        await client.call("ECHO", b"x")


async def test_connections_are_few_and_kept() -> None:
    async with serving() as server, connected(server) as client:
        for _ in range(3):
            words = [f"{number}".encode() for number in range(50)]
            assert await asyncio.gather(*(client.call("ECHO", word) for word in words)) == words
        assert server.connections == 3


async def test_a_script_is_sent_once() -> None:
    async with serving() as server, connected(server) as client:
        for _ in range(3):
            assert await client.eval("return 1", ["k"], ["a"]) == 1
        assert server.commands == ["EVALSHA", "EVAL", "EVALSHA", "EVALSHA"]
        server.scripts.clear()  # SCRIPT FLUSH
        assert await client.eval("return 1", ["k"], ["a"]) == 1


async def test_an_error_answer_is_no_outage_and_shows_no_values() -> None:
    async with serving() as server, connected(server) as client:
        with pytest.raises(RedisError) as caught:
            await client.call("GET", "sk-1")
        assert not isinstance(caught.value, RedisDown)
        assert "sk-1" not in str(caught.value)
        assert await client.call("ECHO", b"x") == b"x"
        assert server.connections == 1


async def test_a_server_that_cannot_serve_is_down() -> None:
    async with serving() as server, connected(server) as client:
        with pytest.raises(RedisDown):
            await client.call("LOAD")
        await is_left_alone(client)


@pytest.mark.slow
async def test_a_slow_server_is_left_alone_then_tried_by_one() -> None:
    async with serving() as server, connected(server, timeout_s=0.1, retry_after_s=0.3) as client:
        assert await client.call("ECHO", b"x") == b"x"
        server.mute = True
        with pytest.raises(RedisDown):
            await client.call("ECHO", b"x")
        asked = len(server.commands)
        started_s = clock.monotonic_s()
        for _ in range(100):
            with pytest.raises(RedisDown):
                await client.call("ECHO", b"x")
        assert clock.monotonic_s() - started_s < 0.1
        assert len(server.commands) == asked
        await asyncio.sleep(0.35)
        answers = await asyncio.gather(*(client.call("ECHO", b"x") for _ in range(10)), return_exceptions=True)
        assert all(isinstance(answer, RedisDown) for answer in answers)
        await until(lambda: len(server.commands) > asked)
        assert len(server.commands) == asked + 1, "only one asks whether it is back"
        server.mute = False
        await asyncio.sleep(0.35)
        assert await client.call("ECHO", b"x") == b"x"
        assert await client.call("ECHO", b"y") == b"y"


async def test_a_busy_process_does_not_take_redis_for_slow() -> None:
    async with serving() as server, connected(server, timeout_s=0.1) as client:
        assert await client.call("ECHO", b"x") == b"x"
        asked = asyncio.ensure_future(client.call("ECHO", b"y"))
        await asyncio.sleep(0)
        time.sleep(0.15)  # this process is busy with something else
        assert await asked == b"y"
        server.mute = True
        asked = asyncio.ensure_future(client.call("ECHO", b"z"))
        await asyncio.sleep(0)
        time.sleep(0.15)
        started_s = clock.monotonic_s()
        with pytest.raises(RedisDown):
            await asked
        assert clock.monotonic_s() - started_s < 0.1, "but not for long"
        server.mute = False


async def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = RedisClient(f"redis://127.0.0.1:{port}", timeout_s=1)
    for _ in range(3):
        with pytest.raises(RedisDown):
            await client.call("PING")
    await is_left_alone(client)


async def test_one_broken_connection_is_not_yet_an_outage() -> None:
    async with serving() as server, connected(server) as client:
        assert await client.call("ECHO", b"x") == b"x"
        server.hang_up = True
        with pytest.raises(RedisDown):
            await client.call("ECHO", b"x")
        server.hang_up = False
        assert await client.call("ECHO", b"x") == b"x"
        server.hang_up = True
        for _ in range(2):
            with pytest.raises(RedisDown):
                await client.call("ECHO", b"x")
        await is_left_alone(client)


@pytest.mark.parametrize("careless", [False, True])
async def test_a_cancelled_command_never_answers_another(careless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller has a tag of its own; many are cancelled wherever they are. The control keeps the connections."""
    chance = random.Random(7)
    foreign = right = 0
    async with serving() as server, connected(server, timeout_s=0.3, max_connections=4) as client:
        server.delay_s = 0.0005

        async def call(tag: bytes) -> None:
            nonlocal foreign, right
            answer = await client.call("ECHO", tag)
            foreign += answer != tag
            right += answer == tag

        async with keeping_all(client, monkeypatch) if careless else nullcontext():
            for turn in range(40):
                tasks = [asyncio.ensure_future(call(b"%d.%d" % (turn, each))) for each in range(25)]
                for task in tasks:
                    if chance.random() < 0.5:
                        asyncio.get_running_loop().call_later(chance.random() * 0.004, task.cancel)
                await asyncio.gather(*tasks, return_exceptions=True)
                if foreign:
                    break
    assert (foreign > 0) is careless
    assert right > 300 or careless


@asynccontextmanager
async def keeping_all(client: RedisClient, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Break it: connections go back whatever became of their command."""
    made: list[Any] = []
    proper = client._make

    async def keep(connection: Any, nowait: bool = False) -> None:
        if not client._closed and connection.is_connected and connection not in client._idle:
            client._idle.append(connection)

    def make(**options: Any) -> Any:
        made.append(type("Kept", (proper,), {"disconnect": keep})(**options))
        return made[-1]

    patch.setattr(client, "_make", make)
    yield
    for connection in made:
        await proper.disconnect(connection, nowait=True)


async def test_closing_lets_go() -> None:
    async with serving() as server, connected(server) as client:
        running = asyncio.ensure_future(client.call("ECHO", b"x"))
        server.delay_s = 0.05
        await until(lambda: bool(server.commands))
        await client.aclose()
        assert await running == b"x"
        await until(lambda: server.open == 0)


@pytest.mark.parametrize("url", ["http://a", "a", "redis//"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="Redis URL"):
        RedisClient(url, timeout_s=1)
