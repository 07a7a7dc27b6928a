"""Many concurrent streams from one process: when does each event arrive?"""

import asyncio
import gc
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

_DONE = b"[DONE]"
_EVENT_END = b"\n\n"


@dataclass
class Arrivals:
    """The gaps between neighbouring events of all streams, and how many streams reached their `[DONE]`.

    Events that arrive in one read have no gap between them: 0 s.
    """

    gaps_s: "array[float]" = field(default_factory=lambda: array("d"))
    complete: int = 0


@dataclass(frozen=True)
class Swarm:
    """So many streams at once, started evenly over `ramp_s`, given up after `timeout_s`."""

    streams: int
    ramp_s: float
    look_after_s: float
    timeout_s: float

    def run(self, port: int, request: bytes, look: Callable[[], None]) -> Arrivals:
        """Run all streams and return what arrived when; call `look` once, `look_after_s` after the start."""
        arrivals = Arrivals()
        gc.collect()
        gc.disable()  # a collection in this process would look like a gap made by the proxy
        try:
            uvloop.run(self._run(port, request, arrivals, look))
        finally:
            gc.enable()
        return arrivals

    async def _run(self, port: int, request: bytes, arrivals: Arrivals, look: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self.look_after_s, look)
        started_s = loop.time()
        ends = []
        for i in range(self.streams):
            await asyncio.sleep(started_s + self.ramp_s * i / self.streams - loop.time())
            _, stream = await loop.create_connection(lambda: _Stream(request, arrivals), "127.0.0.1", port)
            ends.append(stream.ended)
        await asyncio.wait(ends, timeout=self.timeout_s)


class _Stream(asyncio.Protocol):
    def __init__(self, request: bytes, arrivals: Arrivals) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._arrivals = arrivals
        self._last_s = 0.0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        text = self._tail + data
        self._tail = text[-1:] if not text.endswith(_EVENT_END) else b""
        for _ in range(text.count(_EVENT_END)):
            if self._last_s:
                self._arrivals.gaps_s.append(now_s - self._last_s)
            self._last_s = now_s
        if _DONE in data:
            self._arrivals.complete += 1
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
