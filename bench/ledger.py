"""How many operations the shared ledger does on PostgreSQL, with memory (one round trip) and without (two).

All processes use accounts of their own and one that they share. The database of the tests is used: TEST_POSTGRES_URL.
"""

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

from tests.support.databases import postgres_database
from tests.support.shared_ledger import post, reserve, store_on
from tests.support.tcp_proxy import proxy_before
from zuebee.contracts.admission import Budget
from zuebee.ledger.entries import HoldState
from zuebee.ledger.snapshot import Memory
from zuebee.schema.prepare import prepare

LIMIT = 10**12
_START = multiprocessing.get_context("spawn")


def work(
    url: str, name: str, requests: int, seconds: float, remembers: bool, ready: Barrier, out: "Queue[float]"
) -> None:
    """Batches that begin so many requests and end those of the batch before; each batch's seconds go `out`."""
    if not remembers:
        Memory.recall = lambda *_: None  # type: ignore[method-assign]
    path = tuple(Budget(f"{who}/tokens/never", "tokens", "never", LIMIT) for who in (f"key:{name}", "organization:1"))
    store = store_on(url)
    store.apply(1, [reserve(f"{name}_1_{n}", path, 100) for n in range(requests)])
    ready.wait()
    end_s = time.monotonic() + seconds
    batch = 1
    while (begun_s := time.monotonic()) < end_s:
        batch += 1
        begin = [reserve(f"{name}_{batch}_{n}", path, 100) for n in range(requests)]
        answers = store.apply(batch, [*begin, *(post(f"{name}_{batch - 1}_{n}", 50) for n in range(requests))])
        assert answers is not None
        assert all(isinstance(each, HoldState) for each in answers[:requests])
        out.put(time.monotonic() - begun_s)
    out.put(-1)


def far(url: str, delay_s: float, said: "Queue[str]") -> None:
    """The way to a server that is further away."""
    with proxy_before(url) as (proxy, address):
        proxy.delay_s = delay_s
        said.put(address)
        time.sleep(3600)


def measure(processes: int, requests: int, delay_s: float, seconds: float, remembers: bool) -> list[float]:
    """The seconds that each batch of all processes took."""
    with postgres_database() as url:
        prepare(url)
        ready = _START.Barrier(processes)
        took: Queue[float] = _START.Queue()
        running = []
        for number in range(processes):
            address = url
            if delay_s:
                said: Queue[str] = _START.Queue()
                running.append(_START.Process(target=far, args=(url, delay_s, said), daemon=True))
                running[-1].start()
                address = said.get()
            more = (address, f"p{number}", requests, seconds, remembers, ready, took)
            running.append(_START.Process(target=work, args=more, daemon=True))
            running[-1].start()
        found: list[float] = []
        while processes:
            seconds_or_end = took.get()
            processes -= seconds_or_end < 0
            found += [seconds_or_end] * (seconds_or_end >= 0)
        for each in running:
            each.terminate()
            each.join()
    return found


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10, help="that begin, and that end, in a batch")
    parser.add_argument("--delay-ms", type=float, default=0, help="each way, of each packet")
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    for name, remembers in (("one trip", True), ("two trips", False)):
        took = measure(given.processes, given.requests, given.delay_ms / 1000, given.seconds, remembers)
        operations = 2 * given.requests * len(took) / given.seconds
        print(f"{name:9} {operations:8,.0f} operations/s, median of a batch {1000 * statistics.median(took):.1f} ms")


if __name__ == "__main__":
    main()
