"""The clock of an exchange with a server: one timer for all its deadlines.

To move a deadline back costs nothing: the timer looks when it fires. Time in which the server is not read from, because
the reader of its answer takes nothing, is not the server's: it counts against a measure of its own.
"""

import asyncio
from abc import ABC, abstractmethod

from zuebee.kit.http_failure import Failure, Timeouts


class Deadlines(ABC):
    """What a `Connection` knows of time. `begun_s`: when the request was sent.

    `_heard_s`: when something came last, if the timer does not know of it yet. `_paused_s`: since when nothing is read,
    or 0. `_patience_s`: how long the answer's reader may still keep it so.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._busy = False
        self._chunks: list[bytes] = []
        self.begun_s = 0.0
        self._heard_s = 0.0
        self._paused_s = 0.0
        self._patience_s = 0.0
        self._timeouts = Timeouts(0, 0, 0)
        self._total_deadline_s = 0.0
        self._deadline_s = 0.0
        self._deadline_kind: Failure = "first_byte_timeout"
        self._quiet_s = self._quiet_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    @abstractmethod
    def _wake(self) -> None:
        """Wake whoever waits for the answer."""

    @abstractmethod
    def _fail(self, kind: Failure, message: str) -> None:
        """Give the exchange up."""

    def _start_clock(self, timeouts: Timeouts) -> None:
        """The request is sent."""
        now_s = self._loop.time()
        self.begun_s = now_s
        self._timeouts = timeouts
        self._total_deadline_s = now_s + timeouts.total_s
        self._patience_s = timeouts.total_s
        self._paused_s = 0.0
        self._set_deadline(now_s + timeouts.first_byte_s, "first_byte_timeout")

    def _pause(self) -> None:
        """Read no more: the reader of the answer takes nothing."""
        if not self._paused_s:
            self._paused_s = self._loop.time()
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Read on. The server gets the time back, and its silence begins now."""
        now_s = self._loop.time()
        waited_s = min(now_s - self._paused_s, self._patience_s)
        self._paused_s = 0.0
        self._patience_s -= waited_s
        self._total_deadline_s += waited_s
        self._heard_s = now_s
        self._transport.resume_reading()

    def _set_deadline(self, at_s: float, kind: Failure) -> None:
        if at_s >= self._total_deadline_s:
            at_s, kind = self._total_deadline_s, "total_timeout"
        self._deadline_s = at_s
        self._deadline_kind = kind
        self._heard_s = 0.0
        if self._timer is None or at_s < self._timer_at_s:
            self._arm(at_s)

    def _arm(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_later(max(at_s - self._loop.time(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._busy:
            return
        now = self._loop.time() + 0.001
        if self._heard_s:
            self._deadline_s = min(self._heard_s + self._timeouts.idle_s, self._total_deadline_s)
            self._deadline_kind = "idle_timeout" if self._deadline_s < self._total_deadline_s else "total_timeout"
            if self._quiet_at_s:
                self._quiet_at_s = max(self._quiet_at_s, self._heard_s + self._quiet_s)
            self._heard_s = 0.0
        if self._quiet_at_s and now >= self._quiet_at_s:
            self._wake()
            self._quiet_at_s = 0.0
        if now < self._deadline_s:
            quiet = self._quiet_at_s
            self._arm(min(self._deadline_s, quiet) if quiet else self._deadline_s)
        elif self._paused_s:
            self._wait_for_reader(now)
        elif self._chunks and now < self._total_deadline_s:
            # The consumer is slow, not the server: only the total deadline counts.
            self._set_deadline(now + self._timeouts.idle_s, "idle_timeout")
        elif self._deadline_kind == "total_timeout" and self._patience_s <= 0:
            self._fail("reader_timeout", "the reader of the answer took too long")
        else:
            self._fail(self._deadline_kind, "the server took too long")

    def _wait_for_reader(self, now_s: float) -> None:
        ends_s = max(self._paused_s + self._patience_s, self._total_deadline_s)
        if now_s >= ends_s:
            self._fail("reader_timeout", "the reader of the answer took too long")
        else:
            self._arm(min(now_s + self._timeouts.idle_s, ends_s))
