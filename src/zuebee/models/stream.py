"""An event stream between the socket and its reader: metered, and pulled or pushed."""

from typing import Final

from zuebee.contracts.inference import QUIET, Quiet, Sink
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.kit.http_client import Connection, HttpFailure

MAX_BEGUN_BYTES: Final = 1 << 20
"""Comments before the first event are held back with the head; nobody needs more of them."""


class StreamRelay:
    """One event stream on its way through its meter."""

    def __init__(self, meter: StreamMeter, quiet_s: float) -> None:
        self.meter = meter
        self._quiet_s = quiet_s
        self._failure: HttpFailure | None = None

    async def begin(self, connection: Connection) -> bytes:
        """All up to and with the first event that counts. Raises HttpFailure."""
        begun = b""
        while not (self.meter.chunks or self.meter.over):
            data = await connection.read()
            if not data:
                break
            begun += self.meter.feed(data)
            if len(begun) > MAX_BEGUN_BYTES and not self.meter.chunks:
                raise HttpFailure("malformed", "comments without end before the first event")
        return begun

    async def next_event(self, connection: Connection) -> bytes | Quiet | None:
        """The next events that pass, None at the end. Raises HttpFailure."""
        if self._failure is not None:
            raise self._failure
        while not self.meter.over:
            data = await connection.read(self._quiet_s)
            if data is None:
                return QUIET
            if not data:
                return None
            if block := self.meter.feed(data):
                return block
        return None

    async def pump(self, connection: Connection, sink: Sink, heartbeat: bytes) -> None:
        """Push all that is still to come into `sink`, straight from the socket.

        It raises nothing: a failure is for `next_event` to tell.
        """
        meter, feed, write = self.meter, self.meter.feed, sink.write

        def take(data: bytes) -> bool:
            block = feed(data)
            return (not block or write(block)) and not meter.over

        try:
            while not meter.over:
                poured = await connection.pour(take, self._quiet_s)
                if poured is None:
                    write(heartbeat)
                elif not poured:
                    return
                await sink.drain()
        except HttpFailure as failure:
            self._failure = failure
