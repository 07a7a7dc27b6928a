"""A stream whose first event is long in coming, to a model server that reads a long prompt, say.

After `keepalive_s` of silence it is begun all the same: its reader gets the head and keepalives, so that nobody takes
the connection for dead. From then on whatever goes wrong is an event of it, for there is no other status to be told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from zuebee.contracts.errors import BACKEND_ERROR, BAD_ANSWER, Refusal
from zuebee.contracts.inference import End, Events, Head, Headers, Reply
from zuebee.dialects import openai
from zuebee.dialects.hub.wires import Wire
from zuebee.dialects.openai_stream import DONE_EVENT
from zuebee.edge.client import NOT_BEGUN, STREAM_HEADERS
from zuebee.lib.tasks import Tasks

T = TypeVar("T")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
UNREADABLE = replace(BAD_ANSWER, message="The model server's answer is not the stream that was asked for.")


class Prelude:
    """Counts the silence of one request. `begin` sends the head, unless it may not yet (False); `beat` a keepalive."""

    __slots__ = ("_beat", "_begin", "_keepalive_s", "_task", "_tasks", "_timer")

    def __init__(
        self,
        keepalive_s: float,
        begin: Callable[[], Awaitable[bool]],
        beat: Callable[[], Awaitable[None]],
        tasks: Tasks,
    ) -> None:
        self._keepalive_s = keepalive_s
        self._begin = begin
        self._beat = beat
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(keepalive_s, self._play)

    def stop(self) -> None:
        """Send nothing more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _play(self) -> None:
        self._task = self._tasks.spawn(self._beats(), "keep a stream alive that has no events yet")

    async def _beats(self) -> None:
        begun = False
        while True:
            begun = begun or await self._begin()
            if begun:
                await self._beat()
            await asyncio.sleep(self._keepalive_s)


def early_headers(limits: Headers, request_id: str) -> Headers:
    """The header fields of a stream that begins before its backend has answered."""
    return [EVENTS, *limits, (b"x-request-id", request_id.encode()), *STREAM_HEADERS]


async def as_stream(reply: Reply, wire: Wire, *, usage: bool) -> Reply:
    """A reply as the stream that was begun for it. `usage`: the reader asked to be told."""
    head, rest = reply
    if isinstance(head, End) or head.events:
        return reply
    if head.status >= 400:
        return await _refusal(head, rest), None
    if any(name == b"content-encoding" for name, _ in head.headers):
        await _drop(rest)
        return _ended(head, UNREADABLE), None
    return _stream_head(head), _events(head, rest, wire, usage=usage)


def _stream_head(head: Head) -> Head:
    return Head(
        200, [], head.backend, head.usage_so_far, events=True, attempts=head.attempts, backend_url=head.backend_url
    )


async def _events(head: Head, rest: Events | None, wire: Wire, *, usage: bool) -> Events:
    if head.rest is not None:
        body, end = head.rest
        events_, end.last_words = wire.as_events(body, usage=usage)
        yield events_
        yield end
        return
    assert rest is not None
    async with aclosing(rest) as events:
        yield b"data: "  # an answer too long to hold is one event as it stands
        async for event in events:
            if isinstance(event, bytes):
                yield event.replace(b"\n", b" ").replace(b"\r", b" ")
            elif isinstance(event, End):
                yield b"\n\n"
                if event.refusal is None:
                    event.last_words = DONE_EVENT
                yield event


async def _refusal(head: Head, rest: Events | None) -> End:
    """What a backend answered instead, as an end."""
    body = b"" if head.rest is None else head.rest[0]
    await _drop(rest)
    error = openai.answer_error(body)
    told = openai.read_told(error) if error is not None else None
    refusal = Refusal(
        head.status,
        "invalid_request_error" if head.status < 500 else "api_error",
        (told and told.code) or BACKEND_ERROR,
        (told and told.message) or openai.NO_MESSAGE,
        should_retry=head.status in NOT_BEGUN,
        told=told.shown if told else b"",
    )
    return _ended(head, refusal)


def _ended(head: Head, refusal: Refusal) -> End:
    return End(None, refusal, backend=head.backend, attempts=head.attempts, backend_url=head.backend_url)


async def _drop(rest: Events | None) -> None:
    if rest is not None:
        async with aclosing(rest):
            pass


# What must not be compiled: it waits while an exception may be on its way.


async def closing(events: Events, work: Coroutine[Any, Any, T]) -> T:
    """Do the work that consumes these events, and close them, whatever comes of it.

    In what mypyc 2.4 compiles, nobody may wait while an exception is on its way, as the end of an `async with` does
    here: the exception is let go of once too often, and the process dies of it some time later.
    """
    async with aclosing(events):
        return await work
