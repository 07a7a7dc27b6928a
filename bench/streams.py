"""What a caller feels: gaps between events under 1,000 streams, memory, time to first event, start-up.

Run with `python -m bench.streams` from the top of the repository; README.md says what the figures mean.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine, peers, preflight, report
from bench.felt import EVENT_GAP_MS, FirstEvent, Gaps, Memory, first_event, wave
from bench.services import Unusable, running

_STARTS = 3


@dataclass(frozen=True)
class Figures:
    """Everything that was measured of one proxy; one entry a round in the lists."""

    direct: list[Gaps]
    proxied: list[Gaps]
    memory: list[Memory]
    first_event: FirstEvent
    start_up_s: list[float]
    others_share: list[float]

    @property
    def added_p99_ms(self) -> float:
        """The median of the rounds' differences."""
        rounds = zip(self.proxied, self.direct, strict=True)
        return statistics.median(proxied.p99_ms - direct.p99_ms for proxied, direct in rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a stream broke or the proxy cannot be measured."""
    options = _parser().parse_args(arguments)
    cores = machine.share_cores()
    os.sched_setaffinity(0, cores.load)
    _allow_many_files()
    print(f"{options.proxy}: {options.streams} streams of 20 events/s for {options.seconds} s; {cores}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            figures = _run(options, cores, Path(directory))
        except Unusable as error:
            print(error, file=sys.stderr)
            return 1
    print(_tables(figures))
    print(_bars(figures))
    if options.json:
        shape = {"proxy": options.proxy, "version": peers.version(options.proxy)}
        shape |= {"streams": options.streams, "seconds": options.seconds}
        report.write_json(options.json, {"measured": "streams", "cores": str(cores), **shape, **asdict(figures)})
    return int(any(gaps.broken_streams for gaps in [*figures.direct, *figures.proxied]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.streams", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("proxy", nargs="?", default="zuebee", choices=peers.PEERS, help="default: zuebee")
    parser.add_argument("--streams", type=int, default=1000, help="concurrent streams")
    parser.add_argument("--seconds", type=int, default=15, help="length of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="how often direct and proxied take turns")
    parser.add_argument("--repeats", type=int, default=300, help="requests for the time to first event")
    parser.add_argument("--rest", type=float, default=3.0, help="seconds of rest after streams, before memory is read")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _run(options: argparse.Namespace, cores: machine.Cores, directory: Path) -> Figures:
    with running(peers.upstream(directory), cores.load, directory) as upstream:
        preflight.check("upstream", upstream)
        service = peers.PEERS[options.proxy](directory, upstream.port)
        start_up_s = []
        for _ in range(_STARTS):
            with running(service, cores.proxy, directory) as proxy:
                start_up_s.append(proxy.start_up_s)
        with running(service, cores.proxy, directory) as proxy:
            preflight.check(options.proxy, proxy)
            print(f"{options.proxy} {peers.version(options.proxy)}\n")
            first = first_event(upstream, proxy, options.repeats)
            direct, proxied, memory, others_share = [], [], [], []
            for _ in range(options.rounds):
                direct.append(wave(upstream, options.streams, options.seconds, options.rest)[0])
                neighbours = machine.Neighbours(proxy.pid, cores.proxy)
                gaps, held = wave(proxy, options.streams, options.seconds, options.rest)
                others_share.append(neighbours.share())
                proxied.append(gaps)
                memory.append(held)
    return Figures(direct, proxied, memory, first, start_up_s, others_share)


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tables(figures: Figures) -> str:
    names = ["direct", "proxied"] * len(figures.direct)
    waves = [gaps for pair in zip(figures.direct, figures.proxied, strict=True) for gaps in pair]
    gap_rows = [
        [
            name,
            *(f"{ms:.1f}" for ms in (g.p50_ms, g.p99_ms, g.highest_ms)),
            str(g.events),
            str(g.broken_streams),
        ]
        for name, g in zip(names, waves, strict=True)
    ]
    memory_rows = []
    for i, m in enumerate(figures.memory, start=1):
        megabytes = [f"{size / 1e6:.1f}" for size in (m.before_bytes, m.during_bytes, m.after_bytes)]
        memory_rows.append([f"wave {i}", *megabytes, f"{m.per_stream_bytes / 1024:.1f}"])
    first = figures.first_event
    return "\n".join(
        [
            report.table(["gap between events, ms", "p50", "p99", "highest", "events", "broken"], gap_rows),
            report.table(["resident memory, MB", "before", "during", "after", "KB/stream"], memory_rows),
            f"first event after {first.direct_ms:.2f} ms directly, {first.proxied_ms:.2f} ms proxied",
            f"ready after {', '.join(f'{s:.2f}' for s in figures.start_up_s)} s\n",
            report.noise(max(figures.others_share)),
        ]
    )


def _bars(figures: Figures) -> str:
    first, last = figures.memory[0], figures.memory[-1]
    broken = sum(gaps.broken_streams for gaps in [*figures.direct, *figures.proxied])
    if broken:
        return f"MISSED: {broken} streams did not reach their end; the figures above mean nothing"
    if min(gaps.p50_ms for gaps in figures.direct) > 1.1 * EVENT_GAP_MS:
        return "not measured: load and upstream were too slow even without a proxy; is the machine busy?"
    return "\n".join(
        [
            report.bar("p99 gap added", figures.added_p99_ms, 20.0, " ms"),
            report.bar("memory a stream, first wave", first.per_stream_bytes / 1024, 40.0, " KB"),
            report.bar("memory during the last wave, x first", last.during_bytes / first.during_bytes, 1.1),
            report.bar("time to first event added, median", figures.first_event.added_ms, 1.0, " ms"),
            report.bar("start-up to ready, median", statistics.median(figures.start_up_s), 1.5, " s"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
