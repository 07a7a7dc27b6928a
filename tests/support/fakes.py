"""Stand-ins for unit tests: an inference that plays a script, and a time that passes when it is told to."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import (
    End,
    Event,
    Events,
    FailureCause,
    Head,
    Headers,
    Inference,
    Job,
    Reply,
    Usage,
    begin,
)
from zuebee.lib import clock

Step = Event | BaseException | float
"""One step of a script: an event, an exception to raise, or seconds to wait."""

USAGE = Usage(7, 5, "provider")


def make_job(**changes: Any) -> Job:
    """A chat request; `changes` to its fields."""
    body = b'{"model":"m"}'
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "query": b"",
        "headers": [],
        "body": body,
        "model": "m",
        "stream": False,
        "stream_usage": False,
    }
    return Job(**{**fields, **changes})


def head(status: int = 200, headers: Headers | None = None, backend: str = "a") -> Head:
    """The beginning of a reply."""
    fields = headers or [(b"content-type", b"application/json")]
    events = any(value.startswith(b"text/event-stream") for _, value in fields)
    return Head(status, fields, backend, lambda: USAGE, events)


def answer(status: int = 200, headers: Headers | None = None, backend: str = "a") -> list[Step]:
    """A whole reply in one piece."""
    return [head(status, headers, backend), b"{}", End(USAGE if status == 200 else None, backend=backend)]


def failure(cause: FailureCause = "broken", *, sent: bool = True) -> list[Step]:
    """A reply that failed before its head."""
    return [End(refusal=Refusal(502, "api_error", f"was_{cause}", "It failed."), cause=cause, sent=sent, backend="a")]


async def events_of(target: Inference, job: Job) -> Events:
    """All events of a reply, the first one among them."""
    first, rest = await target.run(job)
    if rest is None:
        yield first
        return
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


class FakeInference:
    """Plays one script for each job, the last one over and over; counts what was begun and what was closed."""

    def __init__(self, *scripts: Sequence[Step] | Callable[[], Sequence[Step]]) -> None:
        self.scripts = list(scripts)
        self.begun = 0
        self.closed = 0

    async def run(self, job: Job) -> Reply:
        return await begin(self._play(job))

    async def _play(self, job: Job) -> Events:
        script = self.scripts[min(self.begun, len(self.scripts) - 1)]
        self.begun += 1
        try:
            for step in script() if callable(script) else script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closed += 1


class VirtualTime:
    """The monotonic and the wall clock, and `asyncio.sleep`, which takes no time but says that it passed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        real_sleep = asyncio.sleep

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.now_s += seconds
            await real_sleep(0)

        patch.setattr(clock, "monotonic_s", lambda: self.now_s)
        patch.setattr(clock, "wall_s", lambda: self.now_s)
        patch.setattr(asyncio, "sleep", sleep)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    """Time that passes only in sleeps and by `advance`."""
    with monkeypatch.context() as patch:
        yield VirtualTime(patch)


async def until(check: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for `check` to become true; raises TimeoutError after `timeout_s`.

    It polls: what is waited for knows nothing of the test.
    """
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def told(message: object) -> dict[str, object]:
    """The fields of a message of the contracts, whether it is compiled or not, to compare two of them."""
    return {name: getattr(message, name) for name in dir(message) if not name.startswith("_")}
