"""What the whole line adds to an answer that takes its time: key, limits, a durable hold and settlement, the outbox.

Run with `python -m bench.latency` from the top of the repository; README.md says what the figures mean.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine, peers, preflight, report
from bench.client import Connection, chat_body, chat_request
from bench.services import Running, Unusable, running

ANSWER_MS = 50
AT_ONCE = (1, 32)
_WARM_UP = 5


@dataclass(frozen=True)
class Waits:
    """How long callers waited for whole answers, over all rounds, with so many of them at once."""

    at_once: int
    median_ms: float
    p99_ms: float
    answers: int
    failed: int


Results = dict[str, list[Waits]]  # by server: `direct`, then proxies


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if an answer failed or a proxy cannot be measured."""
    options = _parser().parse_args(arguments)
    cores = machine.share_cores()
    os.sched_setaffinity(0, cores.load)
    print(f"answers that take {ANSWER_MS} ms; {cores}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            results = _run(options, cores, Path(directory))
        except Unusable as error:
            print(error, file=sys.stderr)
            return 1
    print(_table(results))
    print(_bars(results))
    if options.json:
        record = {name: [asdict(waits) for waits in each] for name, each in results.items()}
        versions = {name: peers.version(name) for name in options.proxies}
        whole = {"measured": "latency", "cores": str(cores), "versions": versions, "servers": record}
        report.write_json(options.json, whole)
    return int(any(waits.failed for each in results.values() for waits in each))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("proxies", nargs="*", default=["nginx", "zuebee"], metavar="PROXY", help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="how often each server takes its turn")
    parser.add_argument("--repeats", type=int, default=40, help="answers a caller asks for in a round")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _run(options: argparse.Namespace, cores: machine.Cores, directory: Path) -> Results:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(running(peers.upstream(directory), cores.load, directory))
        preflight.check("upstream", upstream)
        servers = {"direct": upstream}
        for name in options.proxies:
            service = peers.PEERS[name](directory, upstream.port)
            servers[name] = stack.enter_context(running(service, cores.proxy, directory))
            preflight.check(name, servers[name])
        print(", ".join(f"{name} {peers.version(name)}" for name in options.proxies) + "\n")
        return _measure(servers, options.rounds, options.repeats)


def _measure(servers: dict[str, Running], rounds: int, repeats: int) -> Results:
    """Let the servers take turns, so that each round sees the same machine."""
    seen: dict[tuple[str, int], list[float]] = {(name, n): [] for name in servers for n in AT_ONCE}
    failed = dict.fromkeys(seen, 0)
    for _ in range(rounds):
        for name, server in servers.items():
            for at_once in AT_ONCE:
                times_ms, failures = _callers(server.port, at_once, repeats)
                seen[name, at_once] += times_ms
                failed[name, at_once] += failures
    return {name: [_waits(n, seen[name, n], failed[name, n]) for n in AT_ONCE] for name in servers}


def _callers(port: int, at_once: int, repeats: int) -> tuple[list[float], int]:
    """Times of whole answers, and how many failed. Each caller has a connection and asks one by one."""
    request = chat_request(chat_body(stream=False, pause_ms=ANSWER_MS))
    times_ms: list[float] = []
    failures: list[int] = []

    def ask() -> None:
        with contextlib.closing(Connection(port)) as connection:
            for number in range(_WARM_UP + repeats):
                started_s = time.perf_counter()
                answer = connection.exchange(request)
                if number >= _WARM_UP:
                    times_ms.append((time.perf_counter() - started_s) * 1000)
                if answer.status != 200:
                    failures.append(answer.status)

    callers = [threading.Thread(target=ask) for _ in range(at_once)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return times_ms, len(failures) + (repeats * at_once - len(times_ms))


def _waits(at_once: int, times_ms: list[float], failed: int) -> Waits:
    ordered = sorted(times_ms) or [0.0]
    p99_ms = ordered[len(ordered) * 99 // 100]
    return Waits(at_once, statistics.median(ordered), p99_ms, len(times_ms), failed)


def _added(results: Results, name: str, place: int) -> float:
    return results[name][place].median_ms - results["direct"][place].median_ms


def _table(results: Results) -> str:
    head = ["ms until the whole answer"]
    for at_once in AT_ONCE:
        head += [f"{at_once} at once: median", "added", "p99"]
    rows = []
    for name, each in results.items():
        row = [name]
        for place, waits in enumerate(each):
            row += [f"{waits.median_ms:.2f}", f"{_added(results, name, place):.2f}", f"{waits.p99_ms:.2f}"]
        rows.append(row)
    return report.table(head, rows)


def _bars(results: Results) -> str:
    if "zuebee" not in results:
        return ""
    lines = []
    for place, at_once in enumerate(AT_ONCE):
        what = f"median added to an answer of {ANSWER_MS} ms, {at_once} at once"
        lines.append(report.bar(what, _added(results, "zuebee", place), ANSWER_MS * 0.04, " ms"))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
