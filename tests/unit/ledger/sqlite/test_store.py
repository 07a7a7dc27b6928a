import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import unlock
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.ledger.decide import record_of
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.schema.prepare import prepare

NOW_S = 1_790_000_000.0
KEY = Budget("key:a/tokens/never", "tokens", "never", 1000)
TEAM = Budget("team:t/USD/never", "USD", "never", 500)
STUB = '["k","n","u","","","","normal","m","/v1/chat/completions",false,1.0]'


class Desk:
    """A store with a ledger in front of it, as a process has them."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.store = SqliteStore(str(path), **{"reporters": (), "currency": "USD", "retention_days": 0, **options})
        self.start = self.store.start("test", NOW_S)
        self.ledger = Ledger(self.start.owner)
        for path_id, balances in self.store.open_path((KEY, TEAM), [0, 0]):
            self.ledger.add_path(path_id, [self.ledger.add_balance(balance) for balance in balances])
        self.path = self.ledger.open_path((KEY, TEAM), NOW_S)

    def reserve(self, hold: str) -> None:
        self.ledger.reserve(hold, self.path, Amount(100, 50), NOW_S, NOW_S + 30, STUB)

    def write(self, *settled: Settlement) -> None:
        batch = Batch()
        batch.changes = self.ledger.take()
        batch.records += [record_of(each, billed=True) for each in settled]
        self.store.write(batch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare(str(tmp_path / "z.db"))
    return tmp_path / "z.db"


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    desk = Desk(path)
    yield desk
    desk.store.close()


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def settlement(hold: str) -> Settlement:
    principal = Principal("k", "n", "u")
    return Settlement(
        hold, "POST", "/", "", NOW_S, grant=Grant(principal), principal=principal, usage=Usage(7, 5, "provider")
    )


def test_entries_balances_and_holds_tell_the_same_story(desk: Desk, path: Path) -> None:
    for hold in "abc":
        desk.reserve(hold)
    desk.write()
    assert rows(path, "SELECT hold, tokens, cost_nano FROM ledger_holds") == [(hold, 100, 50) for hold in "abc"]
    desk.ledger.extend("a", Amount(150, 60), NOW_S)
    desk.ledger.post("b", Amount(40, 20), NOW_S)
    desk.ledger.void("c", NOW_S)
    desk.write(settlement("b"))
    assert rows(path, "SELECT hold, tokens, cost_nano FROM ledger_holds") == [("a", 150, 60)]
    balances = rows(path, "SELECT unit, granted, held, used, limited, changes FROM ledger_balances ORDER BY id")
    assert balances == [("tokens", 1000, 150, 40, 1000, 1), ("USD", 500, 60, 20, 500, 1)]
    kinds = [kind for (kind,) in rows(path, "SELECT kind FROM ledger_entries ORDER BY id")]
    assert kinds == ["grant", "grant", "reserve", "reserve", "reserve", "extend", "post", "void"]
    assert rows(path, "SELECT request_id, total_tokens FROM usage_records") == [("b", 12)]


def test_a_batch_that_cannot_be_written_leaves_no_transaction_open(desk: Desk, path: Path) -> None:
    batch = Batch()
    batch.changes.paths.append(desk.path)
    with pytest.raises(StoreFailed, match="open_path"):
        desk.store.write(batch)
    other = sqlite3.connect(path, timeout=0.1, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.close()
    desk.reserve("a")
    desk.write()
    assert rows(path, "SELECT hold FROM ledger_holds") == [("a",)]


def test_a_hold_that_begins_and_ends_in_one_batch_leaves_only_entries(desk: Desk, path: Path) -> None:
    desk.reserve("a")
    desk.ledger.post("a", Amount(40, 20), NOW_S)
    desk.write()
    assert rows(path, "SELECT count(*) FROM ledger_holds") == [(0,)]
    assert rows(path, "SELECT held, used FROM ledger_balances ORDER BY id") == [(0, 40), (0, 20)]


def test_what_a_dead_process_left_open_is_found_by_the_next(path: Path) -> None:
    first = Desk(path)
    first.reserve("a")
    first.write()
    unlock(path)
    second = Desk(path)
    (orphan,) = second.start.orphans
    assert (orphan.id, orphan.tokens, orphan.owner, orphan.record) == ("a", 100, first.start.owner, STUB)
    assert second.start.owner > first.start.owner
    assert [balance.held for balance in second.path.balances] == [100, 50]
    first.store.close()
    second.store.close()


def test_a_file_serves_one_process(desk: Desk, path: Path) -> None:
    with pytest.raises(StoreFailed, match="another process serves from it"):
        Desk(path)


def test_grants_of_others_are_seen_once(desk: Desk, path: Path) -> None:
    desk.write()
    assert desk.store.foreign_entries() == []
    connection = sqlite3.connect(path)
    owner = connection.execute("INSERT INTO ledger_owners (name, ended_at_s) VALUES ('command', 1)").lastrowid
    single = connection.execute("SELECT id FROM ledger_paths WHERE balances = '2'").fetchone()[0]
    connection.execute(
        "INSERT INTO ledger_entries (kind, hold, step, path, cost_nano, owner) VALUES ('grant', 'p1', 0, ?, 70, ?)",
        (single, owner),
    )
    connection.commit()
    connection.close()
    ((_, account, starts_at_s, kind, tokens, money),) = desk.store.foreign_entries()
    assert (account, starts_at_s, kind, tokens, money) == (TEAM.account, 0, "grant", 0, 70)
    assert desk.store.foreign_entries() == []


class Failing:
    """A connection whose n-th statement fails."""

    def __init__(self, path: str, script: Callable[[str], Exception | None]) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if (error := self._script(sql)) is not None:
            raise error
        return self._connection.execute(sql, *values)


@pytest.mark.parametrize(
    ("code", "kind"), [("SQLITE_BUSY", StoreBusy), ("SQLITE_FULL", StoreBusy), ("SQLITE_IOERR_FSYNC", StoreFailed)]
)
def test_a_batch_that_fails_leaves_nothing_behind(path: Path, code: str, kind: type[Exception]) -> None:
    failing: list[bool] = []

    def script(sql: str) -> Exception | None:
        if sql != "COMMIT" or not failing:
            return None
        failing.clear()
        error = sqlite3.OperationalError("no")
        error.sqlite_errorname = code
        return error

    desk = Desk(path, connect=lambda name: Failing(name, script))
    failing.append(True)
    desk.reserve("a")
    batch = Batch()
    batch.changes = desk.ledger.take()
    with pytest.raises(kind):
        desk.store.write(batch)
    assert rows(path, "SELECT count(*) FROM ledger_entries") == [(0,)]
    desk.store.write(batch)  # all of it, as if nothing had been
    assert rows(path, "SELECT count(*) FROM ledger_entries") == [(3,)]
    assert rows(path, "SELECT sequence FROM ledger_batches") == [(1,)]
    desk.store.close()


class Log:
    """A log whose disk may be broken."""

    def __init__(self, path: str) -> None:
        self.broken = False
        self.flushed = 0

    def flush(self) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        self.flushed += 1

    def close(self) -> None:
        pass


def test_a_flush_that_fails_is_a_store_that_failed(path: Path) -> None:
    log = Log(str(path))
    desk = Desk(path, open_log=lambda name: log)
    desk.reserve("a")
    desk.write()
    assert log.flushed == 0, "a commit survives the process without"
    desk.store.flush()
    log.broken = True
    with pytest.raises(StoreFailed, match="could not be flushed: Input/output error"):
        desk.store.flush()
    assert log.flushed == 1
    desk.store.close()


def test_nobody_else_can_read_what_is_in_a_store(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        prepare(str(tmp_path / "z.db"))
        store = SqliteStore(str(tmp_path / "z.db"), reporters=(), currency="USD", retention_days=0)
        journal = Journal(str(tmp_path / "z.db.settled"))
        store.start("zuebee", 1.0)
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    journal.close()
    store.close()
    store.close_side()
    assert {"z.db", "z.db-wal", "z.db-shm", "z.db.lock", "z.db.settled"} <= set(modes)
    assert set(modes.values()) == {0o600}, modes
