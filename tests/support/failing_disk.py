"""A SQLite store whose transactions and flushes do not go well, as a plan says."""

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from zuebee.ledger.sqlite.store import connect

Trouble = Literal["busy", "full", "slow", "slow flush", "broken", "broken after", "broken flush"]
PASSING: tuple[Trouble, ...] = ("busy", "full", "slow", "slow flush")
FINAL: tuple[Trouble, ...] = ("broken", "broken after", "broken flush")


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


class Disk:
    """Each transaction of the writer is in trouble with this chance, for `lasts_s`. `final`: some end the store."""

    def __init__(self, seed: int, chance: float, lasts_s: float, *, final: bool) -> None:
        self.well = False
        self.hits: dict[str, int] = {}
        self.dice = random.Random(seed)
        self._chance = chance
        self._lasts_s = lasts_s
        self._kinds = (*PASSING, *FINAL) if final else PASSING
        self._trouble: Trouble | None = None
        self._until_s = 0.0
        self._lock = threading.Lock()

    def trouble(self) -> Trouble | None:
        """What is wrong with this transaction."""
        with self._lock:
            now_s = time.monotonic()
            if self.well or now_s > self._until_s:
                self._trouble = None
            if self._trouble is None and not self.well and self.dice.random() < self._chance:
                self._trouble = self.dice.choice(self._kinds)
                self._until_s = now_s + self._lasts_s * self.dice.random()
                self.hits[self._trouble] = self.hits.get(self._trouble, 0) + 1
            return self._trouble

    def connect(self, path: str) -> "Connection":
        return Connection(path, self)

    def open_log(self, inner: Callable[[str], Any]) -> Callable[[str], Any]:
        return lambda path: Log(inner(path), self)

    def wait(self) -> None:
        time.sleep(self._lasts_s)


class Connection:
    """Of the writer, and of the side thread, which is left in peace."""

    def __init__(self, path: str, disk: Disk) -> None:
        self._db = connect(path)
        self._disk = disk
        self._in_batch = False

    def execute(self, sql: str, values: Any = ()) -> Any:
        if sql != "COMMIT" or not self._in_batch:
            if sql.startswith(("INSERT INTO ledger_entries", "INSERT INTO usage_records")):
                self._in_batch = True
            return self._db.execute(sql, values)
        self._in_batch = False
        trouble = self._disk.trouble()
        if trouble == "slow":
            self._disk.wait()
        elif trouble in ("busy", "full"):
            raise sqlite_error(f"SQLITE_{trouble.upper()}")
        elif trouble == "broken":
            raise sqlite_error("SQLITE_IOERR")
        said = self._db.execute(sql, values)
        if trouble == "broken after":
            raise sqlite_error("SQLITE_IOERR")
        return said

    def executemany(self, sql: str, rows: Any) -> Any:
        return self._db.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


class Log:
    """The write-ahead log's flush."""

    def __init__(self, log: Any, disk: Disk) -> None:
        self._log = log
        self._disk = disk

    def flush(self) -> None:
        trouble = self._disk._trouble
        if trouble == "slow flush":
            self._disk.wait()
        if trouble == "broken flush":
            raise OSError(5, "broken")
        self._log.flush()

    def close(self) -> None:
        self._log.close()
