"""PURE. What is done on a connection, as a sequence of steps; faults are rewritings of that sequence."""

import enum
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Send(NamedTuple):
    """Write bytes; once they are written, that many events and completion tokens count as delivered."""

    data: bytes
    events: int = 0
    tokens: int = 0


class Wait(NamedTuple):
    """Do nothing for a while, counted from when the previous wait was due, so that a pace is kept."""

    delay_s: float


class Stop(enum.Enum):
    """Ways to end an exchange otherwise than by finishing it."""

    HANG = "hang"
    """Send nothing more until the peer leaves."""
    RESET = "reset"
    """Close with a TCP reset."""
    CLOSE = "close"
    """Close the connection properly, but in the middle of the message."""


Step = Send | Wait | Stop


def after_events(steps: Iterable[Step], count: int, insert: Iterable[Step], *, go_on: bool) -> Iterator[Step]:
    """Yield the steps up to `count` events, then those of `insert`, then the rest if `go_on`.

    A stream with fewer events than `count` passes unchanged.
    """
    events, inserted = 0, False
    for step in steps:
        if not inserted and events >= count:
            yield from insert
            inserted = True
            if not go_on:
                return
        yield step
        if isinstance(step, Send):
            events += step.events
    if not inserted and events >= count:
        yield from insert


def without_done(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps without the closing `[DONE]` event."""
    return (step for step in steps if not (isinstance(step, Send) and step.data == DONE))


def rewritten(steps: Iterable[Step], change: Callable[[bytes], bytes]) -> Iterator[Step]:
    """Yield the steps with the bytes of each changed."""
    for step in steps:
        yield step._replace(data=change(step.data)) if isinstance(step, Send) else step


def chunked(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps in the chunked transfer coding, each write its own chunk, with the closing chunk."""
    for step in steps:
        if isinstance(step, Send):
            yield Send(b"%x\r\n%b\r\n" % (len(step.data), step.data), step.events, step.tokens)
        else:
            yield step
            if isinstance(step, Stop):
                return
    yield Send(LAST_CHUNK)


def gzipped(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps as one gzip member, flushed after every write."""
    packer = zlib.compressobj(wbits=31)
    yield from rewritten(steps, lambda data: packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))
    yield Send(packer.flush())


def dripped(steps: Iterable[Step], interval_s: float) -> Iterator[Step]:
    """Yield the steps with every byte sent alone, `interval_s` apart."""
    pause = Wait(interval_s)
    for step in steps:
        if not isinstance(step, Send):
            yield step
            continue
        last = len(step.data) - 1
        for place in range(len(step.data)):
            yield (step._replace(data=step.data[place:]) if place == last else Send(step.data[place : place + 1]))
            yield pause
