"""What a process does that writes to a ledger until it is killed.

It says `try ID` before each operation and `ack ID` when it is committed, into a pipe. Modes break that on purpose:
`early` acknowledges before the commit, `lazy` never commits. With the mode `service` all of `billing` says when: a hold
when it is flushed, a settlement when it is written; `hasty` has a store that says so and commits when it flushes. With
`journal` a settlement is safe at once; `deaf` has a journal that says so and keeps nothing.
"""

import asyncio
import itertools
import os
import random
from collections.abc import Iterator

from tests.support.billing import billing_on
from tests.support.fakes import make_job
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Hold, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.contracts.limits import period_start_s
from zuebee.ledger.decide import record_of
from zuebee.ledger.entries import HoldState
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.store import SqliteStore

NOW_S = 1_794_700_000.0
BUDGETS = (
    Budget("key:k/tokens/daily", "tokens", "daily", 1 << 50),
    Budget("team:t/USD/monthly", "USD", "monthly", 1 << 50),
    Budget("organization:o/USD/never", "USD", "never", 1 << 50),
)
PRINCIPAL = Principal("k", "key", budgets=BUDGETS)
STUB = '["k","key","","","","","normal","m","/v1/chat/completions",false,1794700000.0]'


class Desk:
    """A ledger with its store, as the service has them, without a loop."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        start = store.start("child", NOW_S)
        self.ledger = Ledger(start.owner)
        batch = Batch()
        for orphan in start.orphans:
            balances = [self.ledger.add_balance(balance) for balance in orphan.path.balances]
            orphan.path = self.ledger.add_path(orphan.path.id, balances)
            self.ledger.add_hold(orphan)
            self.ledger.expire(orphan.id, NOW_S)
            batch.records.append(record_of(settlement(orphan.id, orphan.charged), billed=True))
        for path_id, opened in store.open_path(BUDGETS, [period_start_s(b.period, NOW_S) for b in BUDGETS]):
            self.ledger.add_path(path_id, [self.ledger.add_balance(balance) for balance in opened])
        self.path = self.ledger.open_path(BUDGETS, NOW_S)
        self.write(batch)

    def write(self, batch: Batch) -> None:
        batch.changes = self.ledger.take()
        self.store.write(batch)

    def reserve(self, hold: str, amount: Amount) -> None:
        held = self.ledger.reserve(hold, self.path, amount, NOW_S, NOW_S + 30, STUB)
        assert isinstance(held, HoldState)

    def settle(self, hold: str, amount: Amount | None, batch: Batch) -> None:
        if amount is None:
            self.ledger.void(hold, NOW_S)
        else:
            self.ledger.post(hold, amount, NOW_S)
        batch.records.append(record_of(settlement(hold, amount or Amount(0)), billed=True))


def settlement(hold: str, amount: Amount) -> Settlement:
    usage = Usage(0, amount.tokens, "provider") if amount.tokens else None
    return Settlement(
        hold, "POST", "/v1/chat/completions", "127.0.0.1", NOW_S, 200, "complete", "", PRINCIPAL,
        Grant(PRINCIPAL), "m", usage=usage, cost_nano=amount.cost_nano,
    )  # fmt: skip


def operations(desk: Desk, first: int, seed: int) -> Iterator[tuple[list[str], Batch]]:
    """Batches of 1 to 5 operations, with the names of what each batch makes durable: `r12` reserved, `s12` settled."""
    chance = random.Random(seed)
    running: list[str] = []
    for number in itertools.count(first):
        batch, names = Batch(), []
        for part in range(chance.randint(1, 5)):
            if len(running) > 20 or (running and chance.random() < 0.5):
                hold = running.pop(chance.randrange(len(running)))
                names.append(f"s{hold}")
                desk.settle(hold, None if chance.random() < 0.2 else Amount(chance.randint(1, 150), 50), batch)
            else:
                hold = f"{number}.{part}"
                names.append(f"r{hold}")
                running.append(hold)
                desk.reserve(hold, Amount(100, 40))
        yield names, batch


def work(path: str, first: int, mode: str, pipe: int) -> None:
    """Never returns. `first` tells the names of this process from those of others."""
    if mode in ("service", "hasty", "journal", "deaf"):
        asyncio.run(serve(path, first, mode, pipe))
    store = SqliteStore(path, reporters=("hook",), currency="USD", retention_days=0)
    desk = Desk(store)
    for names, batch in operations(desk, first, first):
        _say(pipe, "try", names)
        if mode == "early":
            _say(pipe, "ack", names)
        if mode == "lazy":
            batch.changes = desk.ledger.take()
        else:
            desk.write(batch)
        if mode != "early":
            _say(pipe, "ack", names)


class HastyStore(SqliteStore):
    """Commits when it is to flush."""

    def write(self, batch: Batch) -> None:
        self._promised = batch

    def flush(self) -> None:
        super().write(self._promised)
        super().flush()


class DeafJournal(Journal):
    """Keeps nothing."""

    def add(self, line: bytes) -> bool:
        return self._open


def make_billing(path: str, mode: str) -> BillingService:
    """All of `billing` on a file, as an application has it."""
    kind = HastyStore if mode == "hasty" else SqliteStore
    store = kind(path, reporters=("hook",), currency="USD", retention_days=0)
    settings = BillingSettings(built_in_prices=False)
    journal = {"journal": Journal, "deaf": DeafJournal}.get(mode)
    return billing_on(store, settings, journal=None if journal is None else journal(f"{path}.settled"))


async def recover(path: str, mode: str) -> None:
    """What the next start does."""
    await make_billing(path, mode).aclose()


async def serve(path: str, first: int, mode: str, pipe: int) -> None:
    """Requests, four at a time, every second one in one piece: its hold may go to disk with its settlement."""
    billing = make_billing(path, mode)

    async def client(number: int) -> None:
        for turn in itertools.count():
            await _request(billing, f"{first}.{number}.{turn}", pipe, stream=turn % 2 == 0)

    await asyncio.gather(*(client(number) for number in range(4)))


async def _request(billing: BillingService, name: str, pipe: int, *, stream: bool) -> None:
    _say(pipe, "try", [f"r{name}", f"s{name}"])
    held = await billing.reserve(PRINCIPAL, make_job(request_id=name, model="m", stream=stream), Amount(100, 40))
    assert not isinstance(held, Refusal)
    if stream:
        await _wait(held, name, pipe)
    whole = settlement(name, Amount(70))
    assert whole.grant is not None
    whole.grant.hold = held
    stored = billing.settle(whole)
    if not stream:
        await _wait(held, name, pipe)
    if stored is not None:
        await stored
    _say(pipe, "ack", [f"s{name}"])


async def _wait(held: Hold, name: str, pipe: int) -> None:
    assert await held.wait() is None
    _say(pipe, "ack", [f"r{name}"])


def _say(pipe: int, word: str, names: list[str]) -> None:
    os.write(pipe, "".join(f"{word} {name}\n" for name in names).encode())
