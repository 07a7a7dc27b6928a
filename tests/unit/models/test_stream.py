from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tests.support.loopback import RESET, Loopback, chunked, loopback
from tests.support.samples import VLLM
from zuebee.contracts.inference import QUIET
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.http.connect import Origin
from zuebee.http.pool import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.lib import clock
from zuebee.models.answer import StreamRelay

EVENTS = [event + b"\n\n" for event in VLLM["chat_stream_usage"].split(b"\n\n")[:-1]]
SHOWN = b"".join(event for event in EVENTS if b'"choices":[]' not in event)


Way = Callable[[StreamRelay, Connection], Awaitable[bytes]]


class Reader:
    """A sink that keeps what it is given; slow ones want to be waited for each time."""

    def __init__(self, *, slow: bool = False) -> None:
        self.written_bytes = 0
        self.got: list[bytes] = []
        self.drained = 0
        self._slow = slow

    def write(self, data: bytes) -> bool:
        self.got.append(data)
        self.written_bytes += len(data)
        return not self._slow

    async def drain(self) -> None:
        self.drained += 1


async def opened(server: Loopback) -> Connection:
    pool = HttpPool(Origin(server.url, timeout_s=2.0), max_idle=0, max_connections=1)
    return await pool.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"", Timeouts(2.0, 2.0, 2.0))


def relay(quiet_s: float = 5.0) -> StreamRelay:
    return StreamRelay(StreamMeter(hide_usage=True), quiet_s)


async def pull(target: StreamRelay, connection: Connection) -> bytes:
    got = await target.begin(connection)
    while block := await target.next_event(connection):
        got += block if isinstance(block, bytes) else b""
    return got


async def push(target: StreamRelay, connection: Connection, *, slow: bool = False) -> bytes:
    reader = Reader(slow=slow)
    begun = await target.begin(connection)
    await target.pump(connection, reader, b"")
    return begun + b"".join(reader.got)


@pytest.mark.requirement("A034", "A297")
@pytest.mark.parametrize("way", [pull, push, partial(push, slow=True)], ids=["pulled", "pushed", "pushed slowly"])
@pytest.mark.parametrize("cut", ["events", "bytes", "at once"])
async def test_pulled_or_pushed_the_same_bytes_pass(way: Way, cut: str) -> None:
    stream = b"".join(EVENTS)
    parts = {"events": EVENTS, "bytes": [stream[n : n + 1] for n in range(len(stream))], "at once": [stream]}[cut]
    async with loopback(chunked(*parts)) as server:
        connection = await opened(server)
        target = relay()
        assert await way(target, connection) + target.meter.last_words == SHOWN
        connection.finish()
    assert target.meter.done
    assert target.meter.usage == TokenCounts(7, 6)


async def test_silence_is_told_both_ways() -> None:
    reader = Reader()
    async with loopback(chunked(EVENTS[0], 0.3, *EVENTS[1:])) as server:
        connection = await opened(server)
        target = relay(quiet_s=0.02)
        await target.begin(connection)
        assert await target.next_event(connection) is QUIET
        await target.pump(connection, reader, b": quiet\n\n")
        connection.finish()
    assert reader.got[0] == b": quiet\n\n"
    assert target.meter.last_words == b"data: [DONE]\n\n"


@pytest.mark.slow
@pytest.mark.parametrize("pushed", [False, True])
async def test_nothing_is_put_into_the_midst_of_an_event_that_passes_as_it_comes(pushed: bool) -> None:
    large = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000)
    stream = EVENTS[0] + large + b"".join(EVENTS[1:])
    cut = len(EVENTS[0]) + 6000
    reader = Reader()
    async with loopback(chunked(EVENTS[0], stream[len(EVENTS[0]) : cut], 0.2, stream[cut:])) as server:
        connection = await opened(server)
        target = StreamRelay(StreamMeter(hide_usage=False, max_event_bytes=4096), 0.02)
        got = await target.begin(connection)
        if pushed:
            await target.pump(connection, reader, b": quiet\n")
        else:
            while block := await target.next_event(connection):
                reader.write(block if isinstance(block, bytes) else b": quiet\n")
        connection.finish()
    assert got + b"".join(reader.got).replace(b": quiet\n", b"") + target.meter.last_words == stream
    assert large in got + b"".join(reader.got)


LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'


@pytest.mark.slow
@pytest.mark.parametrize("way", [pull, push], ids=["pulled", "pushed"])
@pytest.mark.parametrize("quiet_s", [0.0, 0.03, 15.0])
@pytest.mark.parametrize("comments", [False, True])
async def test_a_stream_whose_choices_are_all_finished_is_over_soon(way: Way, quiet_s: float, comments: bool) -> None:
    held: list[bytes | float] = [b": ping\n\n", 0.05] * 40 if comments else [10.0]
    began_s = clock.monotonic_s()
    async with loopback(chunked(EVENTS[0], LAST, 0.05, USAGE, *held)) as server:
        connection = await opened(server)
        target = StreamRelay(StreamMeter(hide_usage=True), quiet_s, finished_wait_s=0.2)
        got = await way(target, connection)
        assert 0.15 < clock.monotonic_s() - began_s < 1.5
        connection.finish()
    assert got.replace(b": ping\n\n", b"") == EVENTS[0] + LAST
    assert target.meter.whole
    assert target.meter.usage == TokenCounts(7, 2)


@pytest.mark.slow
@pytest.mark.parametrize("way", [pull, push], ids=["pulled", "pushed"])
async def test_one_that_has_not_finished_is_waited_for(way: Way) -> None:
    async with loopback(chunked(EVENTS[0], 0.3, b": ping\n\n", 0.1, b": ping\n\n", *EVENTS[1:])) as server:
        connection = await opened(server)
        target = StreamRelay(StreamMeter(hide_usage=True), 5.0, finished_wait_s=0.05)
        assert (await way(target, connection)).endswith(EVENTS[-3])
        connection.finish()
    assert target.meter.done


async def test_a_failure_while_pushing_is_told_afterwards() -> None:
    reader = Reader()
    async with loopback(chunked(EVENTS[0], 0.02, EVENTS[1], 0.02, RESET, end=False)) as server:
        connection = await opened(server)
        target = relay()
        begun = await target.begin(connection)
        await target.pump(connection, reader, b"")
        with pytest.raises(HttpFailure):
            await target.next_event(connection)
        connection.finish()
    assert begun + b"".join(reader.got) == EVENTS[0] + EVENTS[1]


async def test_comments_without_end_are_no_beginning() -> None:
    comment = b": " + b"x" * 65_000 + b"\n\n"
    async with loopback(chunked(*[comment] * 40)) as server:
        connection = await opened(server)
        with pytest.raises(HttpFailure) as raised:
            await relay().begin(connection)
        connection.finish()
    assert raised.value.kind == "malformed"
