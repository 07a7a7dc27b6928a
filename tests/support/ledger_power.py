"""Cuts the power of a machine that runs the SQLite store, and looks at what its disk may then hold.

The store's own code runs on a virtual file system that writes down each write, truncation and sync. An image is what a
disk may hold when the power fails at some point of that record: all that was synced, and of the rest, for each write
by itself, nothing (40 %), a part up to a sector (20 %), or all of it. Images are opened with the stock sqlite3 module.
"""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import apsw

from tests.support.empty_stores import empty_store
from tests.support.ledger_child import Desk, operations
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.ledger.sqlite.wal_file import WalFile

SECTOR = 512
DROPPED, TORN = 0.4, 0.2

Event = tuple[Any, ...]


class _File(apsw.VFSFile):
    def __init__(self, events: list[Event], base: str, name: Any, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._events = events
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._events.append(("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._events.append(("truncate", self._name, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._events.append(("sync", self._name))


class _Recorder(apsw.VFS):
    def __init__(self, name: str, events: list[Event]) -> None:
        self.name = name
        self._events = events
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> _File:
        return _File(self._events, "unix", name, flags)


class _Cursor:
    """Rows as the standard module's cursor gives them."""

    def __init__(self, db: apsw.Connection, rows: list[Any]) -> None:
        self.lastrowid = db.last_insert_rowid()
        self.rowcount = db.changes()
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class _Connection:
    """What the store uses of the standard module's connection, on apsw."""

    def __init__(self, path: str, vfs: str) -> None:
        self._db = apsw.Connection(path, vfs=vfs)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> _Cursor:
        try:
            return _Cursor(self._db, list(self._db.execute(sql, tuple(values))))
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> _Cursor:
        try:
            return _Cursor(self._db, list(self._db.executemany(sql, [tuple(row) for row in rows])))
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error

    @property
    def in_transaction(self) -> bool:
        return bool(self._db.in_transaction)

    def close(self) -> None:
        self._db.close()


class _Log(WalFile):
    """The store's own flush, written down like those of SQLite; or none, for the control."""

    def __init__(self, path: str, events: list[Event], *, flushes: bool) -> None:
        super().__init__(path)
        self._events = events
        self._name = f"{path}-wal"
        self._flushes = flushes

    def flush(self) -> None:
        if self._flushes:
            super().flush()
            self._events.append(("sync", self._name))


def record(path: Path, *, flushes: bool, batches: int, seed: int) -> list[Event]:
    """What a store that writes so many batches does to files; between them `("ack", names)` when each is flushed."""
    events: list[Event] = []
    empty_store(path)
    events.append(("write", str(path), 0, path.read_bytes()))
    events.append(("sync", str(path)))
    vfs = _Recorder(f"recorder-{seed}-{flushes}", events)
    connections: list[_Connection] = []

    def connect(name: str) -> Any:
        connections.append(_Connection(name, vfs.name))
        return connections[-1]

    store = SqliteStore(
        str(path),
        reporters=("hook",),
        currency="USD",
        retention_days=0,
        connect=connect,
        open_log=lambda name: _Log(name, events, flushes=flushes),
    )
    connections[0].execute("PRAGMA wal_autocheckpoint=60")  # so that some fall into a checkpoint
    desk = Desk(store)
    for names, batch in islice(operations(desk, 1, seed), batches):
        desk.write(batch)
        store.flush()
        events.append(("ack", names))
    store.close()
    vfs.unregister()
    return events


class Disk:
    """The files as they would be found. Feed it events in their order; `image` at any time."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self._safe: dict[str, bytearray] = {}
        self._unsafe: dict[str, list[Event]] = {}

    def feed(self, event: Event) -> None:
        kind, name = event[:2]
        if kind == "ack":
            self.acknowledged.update(name)
        elif kind == "sync":
            content = self._safe.setdefault(name, bytearray())
            for each in self._unsafe.pop(name, []):
                _apply(content, each)
        else:
            self._unsafe.setdefault(name, []).append(event)

    def image(self, chance: random.Random) -> dict[str, bytearray]:
        """One possible content of the files if the power fails now."""
        files = {}
        for name in self._safe.keys() | self._unsafe.keys():
            content = files[name] = bytearray(self._safe.get(name, b""))
            for event in self._unsafe.get(name, []):
                luck = chance.random()
                if luck < DROPPED:
                    continue
                if luck < DROPPED + TORN and event[0] == "write":
                    whole = len(event[3]) // SECTOR
                    event = (*event[:3], event[3][: chance.randint(0, whole) * SECTOR])
                _apply(content, event)
        return files


def _apply(content: bytearray, event: Event) -> None:
    if event[0] == "truncate":
        del content[event[2] :]
        return
    _, _, offset, data = event
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def lost_in_images(events: list[Event], path: Path, folder: Path, *, images: int, seed: int) -> list[int]:
    """For each image: how many acknowledged operations it has lost. Raises AssertionError if one is not sound."""
    chance = random.Random(seed)
    first = next(number for number, event in enumerate(events) if event[0] == "ack")
    cuts = sorted(chance.randrange(first, len(events)) for _ in range(images))
    disk, at, losses = Disk(), 0, []
    for cut in cuts:
        for event in events[at:cut]:
            disk.feed(event)
        at = cut
        target = folder / "image.db"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        for name, content in disk.image(chance).items():
            Path(name.replace(str(path), str(target))).write_bytes(content)
        losses.append(_look(target, disk.acknowledged))
    return losses


def _look(path: Path, acknowledged: set[str]) -> int:
    connection = sqlite3.connect(path)
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert verdict == "ok", verdict
    rows = connection.execute("SELECT kind, hold FROM ledger_entries WHERE kind IN ('reserve', 'post', 'void')")
    stored = {f"{'r' if kind == 'reserve' else 's'}{hold}" for kind, hold in rows}
    connection.close()
    with reading(str(path)) as reader:
        found = next(iter(verify(reader)), None)
    assert found is None, found
    return len(acknowledged - stored)
