"""An event stream between the socket and its reader: metered, and pulled or pushed."""

import math
from collections.abc import Callable
from typing import Final

from zuebee.contracts.inference import QUIET, Quiet, Sink
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.kit import clock
from zuebee.kit.http_client import Connection, HttpFailure
from zuebee.models.unpacking import Unpacker

MAX_BEGUN_BYTES: Final = 1 << 20
"""Comments before the first event are held back with the head; nobody needs more of them."""


FINISHED_WAIT_S: Final = 3.0
"""Behind the last finish reason come usage and `[DONE]`, at once. Some servers say nothing more, and hold the line."""


class StreamRelay:
    """One event stream on its way through its meter. `quiet_s`: silence of which readers are told; 0: of none."""

    def __init__(self, meter: StreamMeter, quiet_s: float, finished_wait_s: float = FINISHED_WAIT_S) -> None:
        self.meter = meter
        self._feed: Callable[[bytes], bytes] = meter.feed
        self._quiet_s = quiet_s
        # Silence is looked at this often, so that all the time that a reader waits is a multiple of it.
        self._look_s = quiet_s / math.ceil(quiet_s / finished_wait_s) if quiet_s else finished_wait_s
        self._finished_wait_s = finished_wait_s
        self._silent_s = 0.0
        self._finished_at_s = 0.0
        self._failure: HttpFailure | None = None

    def unpack(self, coding: bytes) -> None:
        """The body is compressed: what is read and passed on is what it unpacks to."""
        unpacker, feed = Unpacker(coding), self.meter.feed

        def unpacked(data: bytes) -> bytes:
            return b"".join([feed(piece) for piece in unpacker.pieces(data)])

        self._feed = unpacked

    async def begin(self, connection: Connection, begun_body: bytes = b"") -> bytes:
        """All up to and with the first event that counts; `begun_body` was read already. Raises HttpFailure."""
        begun = b""
        while not (self.meter.chunks or self.meter.over):
            data, begun_body = begun_body or await connection.read(), b""
            if not data:
                begun += self.meter.end()
                break
            begun += self._feed(data)
            if len(begun) > MAX_BEGUN_BYTES and not self.meter.chunks:
                raise HttpFailure("malformed", "comments without end before the first event")
        return begun

    async def next_event(self, connection: Connection) -> bytes | Quiet | None:
        """The next events that pass, None at the end. Raises HttpFailure."""
        if self._failure is not None:
            raise self._failure
        while not self.meter.over:
            data = await connection.read(self._look_s)
            if data is None:
                is_quiet = self._is_quiet()
                if self._has_finished():
                    return None
                if is_quiet:
                    return QUIET
                continue
            self._silent_s = 0.0
            if not data:
                return self.meter.end() or None
            if block := self._feed(data):
                return None if block.startswith(b":") and self._has_finished() else block
        return None

    async def pump(self, connection: Connection, sink: Sink, heartbeat: bytes) -> None:
        """Push all that is still to come into `sink`, straight from the socket.

        It raises nothing: a failure is for `next_event` to tell.
        """
        meter, feed, write = self.meter, self._feed, sink.write

        def take(data: bytes) -> bool:
            block = feed(data)
            return (not block or (write(block) and not block.startswith(b":"))) and not meter.over

        try:
            while not meter.over:
                poured = await connection.pour(take, self._look_s)
                if poured is None:
                    if self._is_quiet():
                        write(heartbeat)
                elif not poured:
                    return
                else:
                    self._silent_s = 0.0
                if self._has_finished():
                    return
                await sink.drain()
        except HttpFailure as failure:
            self._failure = failure

    def _is_quiet(self) -> bool:
        """Nothing came since the last look: whether the reader is to be told now."""
        self._silent_s += self._look_s
        if not self._quiet_s or self.meter.amid_event:
            return False
        looks = round(self._silent_s / self._look_s)
        return looks % max(round(self._quiet_s / self._look_s), 1) == 0

    def _has_finished(self) -> bool:
        """Whether it is whole, and nothing but comments or silence followed for a while."""
        if not self.meter.whole:
            self._finished_at_s = 0.0
            return False
        if not self._finished_at_s:
            self._finished_at_s = clock.monotonic_s() - self._silent_s
        return clock.monotonic_s() - self._finished_at_s >= self._finished_wait_s
