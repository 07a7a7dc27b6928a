"""The ledgers that the state machine drives, all behind the same few calls."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any, Protocol

import sqlalchemy

from tests.support.billing import unlock
from tests.support.empty_stores import empty_store
from tests.support.ledger_model import Answer, Key, Pair
from zuebee.contracts.admission import Amount, Budget
from zuebee.contracts.limits import period_start_s
from zuebee.ledger import ledger as real_ledger
from zuebee.ledger.audit import verify
from zuebee.ledger.invariants import BalanceRow, EntryRow, Fold, HoldRow, Violation
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.store import SqliteStore, connect
from zuebee.ledger.sqlite.wal_file import WalFile

Figures = dict[Key, tuple[int, int, int, int]]
NOTHING = (0, 0)


class Target(Protocol):
    """One ledger with its store. `keep` makes what was answered durable; `crash` loses what was not kept."""

    expires_orphans: bool  # whether a restart resolves the holds of the dead process
    keeps_at_once: bool  # whether an answer is durable without `keep`

    def reserve(
        self,
        hold: str,
        budgets: tuple[Budget, ...],
        amount: Pair,
        now_s: float,
        until_s: float,
        least: Pair | None = None,
    ) -> Answer: ...
    def extend(self, hold: str, amount: Pair, now_s: float) -> Answer | None: ...
    def post(self, hold: str, amount: Pair, now_s: float) -> Answer | None: ...
    def void(self, hold: str, now_s: float) -> Answer | None: ...
    def expire(self, hold: str, now_s: float) -> Answer | None: ...
    def progress(self, hold: str, amount: Pair, until_s: float) -> None: ...
    def grant(self, grant_id: str, budget: Budget, amount: int, now_s: float) -> None: ...
    def keep(self) -> None: ...
    def crash(self, now_s: float) -> None: ...
    def figures(self) -> Figures: ...
    def violations(self) -> list[Violation]: ...
    def close(self) -> None: ...


def answer(said: Any) -> Answer:
    """What a ledger said, as the model says it."""
    if hasattr(said, "asked"):
        return "short", said.account, said.available, said.asked
    return said.state, said.tokens, said.cost_nano, said.charged.tokens, said.charged.cost_nano


class InMemory:
    """The pure ledger, with a store that is a list. After a crash other processes' holds stay open, to be swept."""

    expires_orphans = False
    keeps_at_once = False

    def __init__(self, module: ModuleType = real_ledger) -> None:
        self._module = module
        self.ledger = module.Ledger(1)
        self._kept: list[Any] = []  # entries
        self._holds: dict[str, Any] = {}
        self._names: list[str] = []  # of holds
        self._seen: list[Any] = []  # entries, kept or not

    def reserve(
        self,
        hold: str,
        budgets: tuple[Budget, ...],
        amount: Pair,
        now_s: float,
        until_s: float,
        least: Pair | None = None,
    ) -> Answer:
        path = self.ledger.path(budgets, now_s) or self._open(budgets, now_s)
        enough = None if least is None else Amount(*least)
        self._names.append(hold)
        return answer(self.ledger.reserve(hold, path, Amount(*amount), now_s, until_s, "", enough))

    def _open(self, budgets: tuple[Budget, ...], now_s: float) -> Any:
        return self.ledger.open_path(budgets, now_s)

    def extend(self, hold: str, amount: Pair, now_s: float) -> Answer:
        return answer(self.ledger.extend(hold, Amount(*amount), now_s))

    def post(self, hold: str, amount: Pair, now_s: float) -> Answer:
        return answer(self.ledger.post(hold, Amount(*amount), now_s))

    def void(self, hold: str, now_s: float) -> Answer:
        return answer(self.ledger.void(hold, now_s))

    def expire(self, hold: str, now_s: float) -> Answer:
        return answer(self.ledger.expire(hold, now_s))

    def progress(self, hold: str, amount: Pair, until_s: float) -> None:
        state = self.ledger.hold(hold)
        state.progress, state.expires_at_s = Amount(*amount), until_s

    def grant(self, grant_id: str, budget: Budget, amount: int, now_s: float) -> None:
        path = self._open((budget,), now_s)
        self.ledger.grant(grant_id, path.balances[0], amount, now_s)

    def keep(self) -> None:
        self._kept += self.ledger.take().entries
        self._holds = {}
        for name in self._names:
            with suppress(self._module.UnknownHold):
                self._holds[name] = self.ledger.hold(name).copy()
        self._names = list(self._holds)

    def crash(self, now_s: float) -> None:
        old, self.ledger = self.ledger, self._module.Ledger(2, next_balance=10_000, next_path=10_000)
        balances: dict[int, Any] = {}
        for entry in self._kept:
            for each in entry.path.balances:
                if each.id not in balances:
                    fresh = type(each)(each.id, each.account, each.unit, each.period, each.starts_at_s)
                    balances[each.id] = fresh
                mine = balances[each.id]
                self._module.apply_entry(entry, mine)
                if entry.kind in ("grant", "withdraw") and entry.hold.startswith(f"{each.account}@"):
                    sign = 1 if entry.kind == "grant" else -1
                    mine.limited += sign * (entry.tokens if each.unit == "tokens" else entry.cost_nano)
                    mine.changes += 1
                    mine.apart += getattr(entry, "apart", 0)
        self.ledger.next_balance, self.ledger.next_path = old.next_balance, old.next_path
        for mine in balances.values():
            self.ledger.add_balance(mine)
        for entry in self._kept:
            self.ledger.add_path(entry.path.id, [balances[each.id] for each in entry.path.balances])
        for state in [hold.copy() for hold in self._holds.values()]:
            state.path = self.ledger.add_path(state.path.id, [balances[each.id] for each in state.path.balances])
            self.ledger.add_hold(state)
            for each in state.path.balances:
                each.owed += state.owed.tokens if each.unit == "tokens" else state.owed.cost_nano

    def figures(self) -> Figures:
        return {(b.account, b.starts_at_s): (b.granted, b.held, b.used, b.overdraft) for b in self.ledger.balances()}

    def violations(self) -> list[Violation]:
        balances = [BalanceRow(*(getattr(b, name) for name in BalanceRow._fields)) for b in self.ledger.balances()]
        entries = self._kept + self.ledger.changes.entries
        paths = {e.path.id: ",".join(str(b.id) for b in e.path.balances) for e in entries}
        fold = Fold(balances, paths.items())
        found = []
        once: set[tuple[str, int]] = set()
        for number, e in enumerate(entries):
            row = EntryRow(
                number, 0, e.kind, e.hold, e.step, e.path.id, e.tokens, e.cost_nano, e.released_tokens,
                e.released_cost_nano, 1, e.at_s,
            )  # fmt: skip
            found += fold.add(row)
            if e.step is not None:
                if (e.hold, e.step) in once:
                    found.append(Violation("I13", e.hold, f"step {e.step} a second time"))
                once.add((e.hold, e.step))
        holds = [
            HoldRow(h.id, h.path.id, h.tokens, h.cost_nano, 0.0, 1, h.owed.tokens, h.owed.cost_nano)
            for h in self.ledger.open.values()
        ]
        return found + list(fold.finish(holds))

    def close(self) -> None:
        pass


class OnSqlite(InMemory):
    """The ledger with its SQLite store, on a real file. A restart expires what the dead process held."""

    expires_orphans = True

    def __init__(self, path: FilePath, open_database: Callable[[str], Any] = connect) -> None:
        self.path = path
        self._open_database = open_database
        self._names = []
        self._files: list[Any] = []
        self._names: list[str] = []
        empty_store(path)
        self._start(0.0)

    def _start(self, now_s: float) -> None:
        self.store = SqliteStore(
            str(self.path), reporters=(), currency="USD", retention_days=0, connect=self._connect, open_log=self._log
        )
        start = self.store.start("test", now_s)
        self.ledger = real_ledger.Ledger(start.owner)
        self._progress: dict[str, tuple[float, int, int, str]] = {}
        for orphan in start.orphans:  # as billing/service.py does
            balances = [self.ledger.add_balance(balance) for balance in orphan.path.balances]
            orphan.path = self.ledger.add_path(orphan.path.id, balances)
            self.ledger.add_hold(orphan)
            self.ledger.expire(orphan.id, now_s)
        self.keep()

    def _connect(self, name: str) -> Any:
        self._files.append(self._open_database(name))
        return self._files[-1]

    def _log(self, name: str) -> WalFile:
        self._files.append(WalFile(name))
        return self._files[-1]

    def _open(self, budgets: tuple[Budget, ...], now_s: float) -> Any:
        starts_s = [period_start_s(budget.period, now_s) for budget in budgets]
        known = [self.ledger.balance(b.account, start_s) for b, start_s in zip(budgets, starts_s, strict=True)]
        if None in known or self.ledger.path_of(known) is None:
            for path_id, balances in self.store.open_path(budgets, starts_s):
                self.ledger.add_path(path_id, [self.ledger.add_balance(balance) for balance in balances])
        return self.ledger.open_path(budgets, now_s)

    def progress(self, hold: str, amount: Pair, until_s: float) -> None:
        super().progress(hold, amount, until_s)
        self._progress[hold] = (until_s, *amount, hold)

    def keep(self) -> None:
        batch = Batch()
        batch.changes = self.ledger.take()
        batch.progress = list(self._progress.values())
        self._progress = {}
        self.store.write(batch)

    def crash(self, now_s: float) -> None:
        """What a killed process leaves: its locks end, nothing is written any more."""
        self._let_go()
        self._start(now_s)

    def _let_go(self) -> None:
        while self._files:
            self._files.pop().close()
        unlock(self.path)

    def violations(self) -> list[Violation]:
        self.keep()
        self._check_memory()
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}")
        try:
            with engine.begin() as connection:
                return [v for v in verify(connection) if v.invariant not in ("I4", "I8")]  # no usage records here
        finally:
            engine.dispose()

    def _check_memory(self) -> None:
        """Memory and disk agree."""
        reader = sqlite3.connect(self.path)
        rows = reader.execute("SELECT account, starts_at_s, granted, held, used, overdraft FROM ledger_balances")
        stored = {(account, starts_at_s): tuple(figures) for account, starts_at_s, *figures in rows}
        reader.close()
        for key, figures in self.figures().items():
            assert stored[key] == figures, f"{key}: {stored[key]} on disk, {figures} in memory"

    def close(self) -> None:
        self._let_go()
        for suffix in ("", "-wal", "-shm", ".lock"):
            FilePath(f"{self.path}{suffix}").unlink(missing_ok=True)
