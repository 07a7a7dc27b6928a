"""CPU time per request and per streamed chunk: ZueBee beside nginx, Envoy and LiteLLM.

Run with `python -m bench.cost` from the top of the repository; README.md says what the figures mean.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine, peers, preflight, report
from bench.measure import KINDS, Contender, Sample, Summary, measure, summarise
from bench.services import Unusable, running

Samples = dict[tuple[str, str], list[Sample]]  # by proxy and kind
Results = dict[str, dict[str, Summary]]  # by proxy, then kind


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table. Return 1 if a request failed or a proxy that was asked for is missing."""
    options = _parser().parse_args(arguments)
    cores = machine.share_cores()
    os.sched_setaffinity(0, cores.load)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            results, missing = _run(options, cores, Path(directory))
        except Unusable as error:
            print(error, file=sys.stderr)
            return 1
    print(report.cost_table(results))
    print(report.cost_bars(results))
    if options.json:
        report.write_json(options.json, _record(options, cores, results))
    failed = any(summary.failed for kinds in results.values() for summary in kinds.values())
    return int(failed or bool(options.proxies and missing))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.cost", description=(__doc__ or "").splitlines()[0])
    names = ", ".join(peers.PEERS)
    parser.add_argument("proxies", nargs="*", metavar="PROXY", help=f"from {names}; default: all but {peers.PLAIN}")
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="how often each proxy takes its turn")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _run(options: argparse.Namespace, cores: machine.Cores, directory: Path) -> tuple[Results, list[str]]:
    print(f"{cores}; {options.rounds} rounds of {options.seconds} s\n")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(running(peers.upstream(directory), cores.load, directory))
        preflight.check("upstream", upstream)
        proxies: dict[str, Contender] = {}
        missing = []
        for name in options.proxies or peers.DEFAULT:
            try:
                service = peers.PEERS[name](directory, upstream.port)
                process = stack.enter_context(running(service, cores.proxy, directory))
                proxies[name] = Contender(process, preflight.check(name, process))
            except Unusable as reason:
                missing.append(name)
                print(f"without {name}: {reason}\n")
        print(", ".join(f"{name} {peers.version(name)}" for name in proxies) + "\n")
        samples = _rounds(options, proxies, cores, directory)
    return {name: _summarise(name, samples) for name in proxies}, missing


def _rounds(
    options: argparse.Namespace, proxies: dict[str, Contender], cores: machine.Cores, directory: Path
) -> Samples:
    """Let the proxies take turns, so that each round sees the same machine. A first, short round warms up."""
    samples: Samples = {(name, kind.name): [] for name in proxies for kind in KINDS}
    for round_number in range(options.rounds + 1):
        seconds = options.seconds if round_number else 1
        for kind in KINDS:
            body = kind.write_body(directory)
            for name, proxy in proxies.items():
                sample = measure(kind, proxy, body, seconds, cores)
                if round_number:
                    samples[name, kind.name].append(sample)
    return samples


def _summarise(name: str, samples: Samples) -> dict[str, Summary]:
    kinds = [kind.name for kind in KINDS]
    return {kind: summarise(samples[name, kind], samples.get(("nginx", kind), ())) for kind in kinds}


def _record(options: argparse.Namespace, cores: machine.Cores, results: Results) -> dict[str, object]:
    proxies = {
        name: {"version": peers.version(name)} | {kind: dataclasses.asdict(s) for kind, s in kinds.items()}
        for name, kinds in results.items()
    }
    return {
        "measured": "cost",
        "cores": str(cores),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "proxies": proxies,
    }


if __name__ == "__main__":
    sys.exit(main())
