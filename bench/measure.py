"""One measurement of one proxy under load, and the summary of several."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import load, machine
from bench.client import EVENTS, chat_body
from bench.services import Running


@dataclass(frozen=True)
class Kind:
    """What is asked for. Whole answers are counted as requests, streams as chunks.

    Paced, 1 ms lies between events, so that each is read and written by itself, as those of a real model
    server are. In a burst, the upstream sends them as fast as it can, and proxies pass on several at once.
    """

    name: str
    stream: bool
    pause_ms: int

    def write_body(self, directory: Path) -> Path:
        """Write the request's body where the load finds it."""
        path = directory / f"{self.name}.json"
        path.write_bytes(chat_body(stream=self.stream, pause_ms=self.pause_ms))
        return path


KINDS = (
    Kind("request", stream=False, pause_ms=0),
    Kind("burst_chunk", stream=True, pause_ms=0),
    Kind("paced_chunk", stream=True, pause_ms=1),
)


@dataclass(frozen=True)
class Contender:
    """A proxy that answers as it should; `stream_bytes` is a whole stream on the wire, each event framed."""

    process: Running
    stream_bytes: int


@dataclass(frozen=True)
class Sample:
    """One measurement. `others_share` is the part of the proxy's core that other programs took meanwhile."""

    units: float
    cpu_us: float
    writes: float
    failed: int
    others_share: float

    @property
    def cpu_us_per_unit(self) -> float:
        return self.cpu_us / self.units

    @property
    def writes_per_unit(self) -> float:
        return self.writes / self.units


def measure(kind: Kind, proxy: Contender, body: Path, seconds: int, cores: machine.Cores) -> Sample:
    """Load the proxy for so many seconds and count what its process tree spent.

    All is counted in the proxy's favour. Requests that are still running at the end count as done. Chunks are
    those of whole streams, or those that the bytes received amount to, whichever is more: the first leaves
    out the streams still running, the second the framing that is saved where a proxy joins events.
    """
    pid = proxy.process.pid
    cpu_s, writes = machine.cpu_time_s(pid), machine.write_calls(pid)
    neighbours = machine.Neighbours(pid, cores.proxy)
    seen = load.run(proxy.process.port, body, seconds, cores.load)
    cpu_s, writes = machine.cpu_time_s(pid) - cpu_s, machine.write_calls(pid) - writes
    others_share = neighbours.share()
    streams = max(seen.requests, seen.received_bytes / proxy.stream_bytes)
    units = streams * EVENTS if kind.stream else float(seen.requests + load.CONNECTIONS)
    return Sample(max(units, 1.0), cpu_s * 1e6, writes, seen.failed, others_share)


@dataclass(frozen=True)
class Summary:
    """The medians over all rounds. Ratios are taken within a round, so that a slow minute cancels out."""

    cpu_us: float
    cpu_us_lowest: float
    cpu_us_highest: float
    ratio: float | None
    writes: float
    failed: int
    others_share: float


def summarise(samples: Sequence[Sample], yardstick: Sequence[Sample]) -> Summary:
    """Sum up one proxy's rounds, beside the same rounds of nginx (may be empty)."""
    costs = [sample.cpu_us_per_unit for sample in samples]
    ratios = [cost / base.cpu_us_per_unit for cost, base in zip(costs, yardstick, strict=False)]
    return Summary(
        cpu_us=statistics.median(costs),
        cpu_us_lowest=min(costs),
        cpu_us_highest=max(costs),
        ratio=statistics.median(ratios) if ratios else None,
        writes=statistics.median(sample.writes_per_unit for sample in samples),
        failed=sum(sample.failed for sample in samples),
        others_share=statistics.median(sample.others_share for sample in samples),
    )
