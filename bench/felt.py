"""What a caller feels of a proxy: uneven events, a late first event; and what the proxy holds meanwhile."""

import contextlib
import statistics
import time
from dataclasses import dataclass

from bench import machine
from bench.client import Connection, chat_body, chat_request
from bench.services import Running
from bench.swarm import Arrivals, Swarm

EVENT_GAP_MS = 50
_RAMP_S = 2.0
_WARM_UP = 20


@dataclass(frozen=True)
class Gaps:
    """How evenly the events of all streams came, and how many streams did not reach their end."""

    p50_ms: float
    p99_ms: float
    highest_ms: float
    events: int
    broken_streams: int


@dataclass(frozen=True)
class Memory:
    """Resident memory before, during and after the streams."""

    before_bytes: int
    during_bytes: int
    after_bytes: int
    streams: int

    @property
    def per_stream_bytes(self) -> float:
        return (self.during_bytes - self.before_bytes) / self.streams


@dataclass(frozen=True)
class FirstEvent:
    """Median time from sending a request to its first event."""

    direct_ms: float
    proxied_ms: float

    @property
    def added_ms(self) -> float:
        return self.proxied_ms - self.direct_ms


def wave(server: Running, streams: int, seconds: int, rest_s: float) -> tuple[Gaps, Memory]:
    """Run so many streams of 20 events/s for so long, and watch the server's memory.

    Memory `after` is taken after `rest_s` of rest.
    """
    tree = machine.process_tree(server.pid)
    held = [machine.resident_bytes(tree)]
    events = seconds * 1000 // EVENT_GAP_MS
    request = chat_request(chat_body(stream=True, pause_ms=EVENT_GAP_MS, events=events))
    swarm = Swarm(streams, _RAMP_S, look_after_s=_RAMP_S + seconds / 2, timeout_s=2 * seconds + 30)
    arrivals = swarm.run(server.port, request, look=lambda: held.append(machine.resident_bytes(tree)))
    time.sleep(rest_s)
    before, during = held
    return _gaps(arrivals, streams), Memory(before, during, machine.resident_bytes(tree), streams)


def first_event(upstream: Running, proxy: Running, repeats: int) -> FirstEvent:
    """Ask both for short streams, one at a time and by turns, on kept-alive connections."""
    request = chat_request(chat_body(stream=True, events=3))
    times_ms: tuple[list[float], list[float]] = ([], [])
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(Connection(s.port))) for s in (upstream, proxy)]
        for _ in range(repeats + _WARM_UP):
            for connection, times in zip(connections, times_ms, strict=True):
                first_event_s = connection.exchange(request).first_event_s
                assert first_event_s is not None, "the pre-flight check has seen a stream"
                times.append(first_event_s * 1000)
    direct_ms, proxied_ms = (statistics.median(times[_WARM_UP:]) for times in times_ms)
    return FirstEvent(direct_ms, proxied_ms)


def _gaps(arrivals: Arrivals, streams: int) -> Gaps:
    gaps_s = sorted(arrivals.gaps_s) or [0.0]
    p50_s, p99_s = gaps_s[len(gaps_s) // 2], gaps_s[len(gaps_s) * 99 // 100]
    return Gaps(p50_s * 1000, p99_s * 1000, gaps_s[-1] * 1000, len(gaps_s), streams - arrivals.complete)
