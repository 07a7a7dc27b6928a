"""Plays the steps of one exchange on a transport: in time, and no faster than the peer reads."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

from zuebee.sim.steps import Send, Step, Stop, Wait

_BURST = 64
"""Steps taken in one go before other connections have their turn."""
_RESET_AFTER_S = 0.02
"""A reset discards what the kernel has not sent yet; so long it gets to send the bytes before it."""
_LINGER_NOTHING = struct.pack("ii", 1, 0)


class Player:
    """One exchange on a connection.

    `sent(events, tokens)` is called for writes that deliver some; `done(None)` when the steps are at their
    end, `done(stop)` when they ended the connection. After `cancel()` neither is called any more.
    At most one timer runs at a time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        steps: Iterator[Step],
        sent: Callable[[int, int], None],
        done: Callable[[Stop | None], None],
    ) -> None:
        self._loop, self._transport, self._steps = loop, transport, steps
        self._sent, self._done = sent, done
        self._timer: asyncio.Handle | None = None
        self._due = loop.time()
        self._paused = False

    def run(self) -> None:
        """Take steps until one has to be waited for."""
        self._timer = None
        for _ in range(_BURST):
            if self._paused or self._transport.is_closing():
                return
            step = next(self._steps, None)
            if isinstance(step, Send):
                self._transport.write(step.data)
                if step.events or step.tokens:
                    self._sent(step.events, step.tokens)
            elif isinstance(step, Wait):
                self._due += step.delay_s
                if self._due > self._loop.time():
                    self._timer = self._loop.call_at(self._due, self.run)
                    return
            else:
                self._finish(step)
                return
        self._timer = self._loop.call_soon(self.run)

    def pause(self) -> None:
        """Write nothing more: the peer does not read."""
        self._paused = True

    def resume(self) -> None:
        """Go on: the peer has read."""
        self._paused = False
        if self._timer is None:
            self.run()

    def cancel(self) -> None:
        """Stop: the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._paused = True

    def _finish(self, stop: Stop | None) -> None:
        if stop is Stop.HANG:
            return
        if stop is Stop.RESET:
            self._timer = self._loop.call_later(_RESET_AFTER_S, self._reset)
            return
        if stop is Stop.CLOSE:
            self._transport.close()
        self._done(stop)

    def _reset(self) -> None:
        """Close with a reset: with nothing to linger for, the kernel sends RST instead of FIN."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        self._transport.abort()
        self._done(Stop.RESET)
