import asyncio

import pytest

from tests.support.fakes import USAGE
from zuebee.contracts.inference import End, Events, Head, Headers
from zuebee.dialects.hub.wires import OPENAI
from zuebee.edge.prelude import Prelude, as_stream
from zuebee.lib.tasks import Tasks


def head(status: int = 200, headers: Headers | None = None, rest: tuple[bytes, End] | None = None) -> Head:
    return Head(status, headers or [], "b", lambda: USAGE, rest=rest, attempts=2, backend_url="http://b")


async def played(ready_after: int, for_s: float) -> list[str]:
    """What a prelude does whose head may go out when it was asked so often."""
    said: list[str] = []

    async def begin() -> bool:
        said.append("begin")
        return len(said) > ready_after

    async def beat() -> None:
        said.append("beat")

    tasks = Tasks()
    prelude = Prelude(0.005, begin, beat, tasks)
    await asyncio.sleep(for_s)
    prelude.stop()
    seen = list(said)
    await asyncio.sleep(0.02)
    assert said == seen, "nothing is sent after it was stopped"
    await tasks.aclose()
    return said


async def test_it_begins_once_and_goes_on() -> None:
    said = await played(0, 0.1)
    assert said[:3] == ["begin", "beat", "beat"]
    assert said.count("begin") == 1


async def test_it_asks_again_while_it_may_not_begin() -> None:
    assert (await played(2, 0.1))[:5] == ["begin", "begin", "begin", "beat", "beat"]


async def test_stopped_in_time_it_says_nothing() -> None:
    assert await played(0, 0.0) == []


async def pieces(closed: list[bool]) -> Events:
    try:
        yield b'{"a":\n'
        yield b"1}"
        yield End(USAGE)
    finally:
        closed.append(True)


async def test_an_answer_without_bound_is_one_event_as_it_comes() -> None:
    first, rest = await as_stream((head(), pieces([])), OPENAI, usage=True)
    assert isinstance(first, Head)
    assert (first.status, first.events, first.attempts, first.backend_url) == (200, True, 2, "http://b")
    assert rest is not None
    *parts, end = [event async for event in rest]
    assert b"".join(part for part in parts if isinstance(part, bytes)) == b'data: {"a": 1}\n\n'
    assert isinstance(end, End)
    assert (end.usage, end.last_words) == (USAGE, b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("status", "body", "code", "again"),
    [
        (400, b'{"error":{"message":"too long","code":"context_length_exceeded"}}', "context_length_exceeded", False),
        (503, b'{"error":{"message":"busy","type":"overloaded"}}', "overloaded", True),
        (500, b"", "backend_error", False),
        (500, b"nothing", "backend_error", False),
    ],
)
async def test_an_error_answer_is_an_end(status: int, body: bytes, code: str, again: bool) -> None:
    end, rest = await as_stream((head(status, rest=(body, End(USAGE))), None), OPENAI, usage=False)
    assert isinstance(end, End)
    assert rest is None
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.code, end.refusal.should_retry) == (status, code, again)
    assert (end.usage, end.attempts, end.backend) == (None, 2, "b")


async def test_what_nobody_reads_is_closed() -> None:
    closed: list[bool] = []
    rest = pieces(closed)
    await anext(rest)
    end, _ = await as_stream((head(200, [(b"content-encoding", b"br")]), rest), OPENAI, usage=False)
    assert isinstance(end, End)
    assert end.refusal is not None
    assert closed == [True]
