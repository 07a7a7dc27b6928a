"""What a request costs on the thread that writes the ledger on SQLite: reserve, post, usage record and an event.

    python -m bench.ledger_thread --batches 2000 --requests 32

Nothing waits for it here; the processor's time of the thread counts, and what is written to the write-ahead log.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.contracts.limits import period_start_s
from zuebee.ledger.decide import record_of
from zuebee.ledger.entries import HoldState
from zuebee.ledger.journal_rows import HoldContext
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.schema.prepare import prepare

ROUTE = "/v1/chat/completions"
BUDGETS = (
    Budget("key:key_0123456789abcdef/USD/monthly", "USD", "monthly", 1 << 50),
    Budget("organization:acme/USD/monthly", "USD", "monthly", 1 << 50),
)
WHO = Principal("key_0123456789abcdef", "bench", "ann", "ml", "acme", "gold", "normal", ("a", "b"), budgets=BUDGETS)
STUB = HoldContext(WHO.key_id, WHO.name, "ann", "ml", "acme", "gold", "normal", "llama-3-8b", ROUTE, False, 0.0)


def batches(ledger: Ledger, count: int, requests: int) -> list[Batch]:
    """Batches in each of which so many requests begin and end."""
    now_s, made, names = clock.wall_s(), [], itertools.count(1)
    path = ledger.open_path(BUDGETS, now_s)
    for _ in range(count):
        batch = Batch()
        for _ in range(requests):
            name = f"req_0123456789abcdef{next(names):08x}"  # as edge/http.py makes them
            held = ledger.reserve(name, path, Amount(500, 900_000), now_s, now_s + 30, STUB)
            assert isinstance(held, HoldState)
            ledger.post(name, Amount(120, 250_000), now_s)
            batch.records.append(
                record_of(
                    Settlement(
                        name, "POST", ROUTE, "127.0.0.1", now_s, 200, "complete", "", WHO, Grant(WHO),
                        "llama-3-8b", backend="vllm-1", backend_url="http://vllm-1.internal:8000", attempts=1,
                        usage=Usage(100, 20, "provider"), cost_nano=250_000, duration_s=0.52137, first_token_s=0.0213,
                    ),
                    billed=True,
                )
            )  # fmt: skip
        batch.changes = ledger.take()
        made.append(batch)
    return made


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=32, help="in each batch")
    parser.add_argument("--reporters", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "z.db"
        prepare(str(path))
        names = [f"reporter-{number}" for number in range(asked.reporters)]
        store = SqliteStore(str(path), reporters=names, currency="USD", retention_days=0)
        ledger = Ledger(store.start("bench", clock.wall_s()).owner)
        starts_s = [period_start_s(budget.period, clock.wall_s()) for budget in BUDGETS]
        for path_id, balances in store.open_path(BUDGETS, starts_s):
            ledger.add_path(path_id, [ledger.add_balance(balance) for balance in balances])
        made = batches(ledger, asked.batches, asked.requests)
        written = _written_bytes()
        begun_s, thread_s = time.perf_counter(), time.thread_time()
        for batch in made:
            store.write(batch)
        thread_s, took_s = time.thread_time() - thread_s, time.perf_counter() - begun_s
        written = _written_bytes() - written
        store.close()
        count = asked.batches * asked.requests
        size = path.stat().st_size
    print(f"{count} requests in {asked.batches} batches, {asked.reporters} reporter(s)")
    print(f"{thread_s / count * 1e6:.1f} us of the thread a request, {thread_s / asked.batches * 1e6:.0f} us a batch")
    print(f"{took_s / asked.batches * 1e3:.2f} ms a batch; {written / count:.0f} bytes written a request; "
          f"{size / count:.0f} bytes kept a request")  # fmt: skip


def _written_bytes() -> int:
    """What this process has written so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
