"""Settlements that the database has not taken yet, in a file that survives the process.

One line for each, as JSON, flushed to the disk before `append` returns.
"""

import fcntl
import logging
import os
from pathlib import Path

import msgspec

from zuebee.billing.operations import Settle
from zuebee.billing.store_errors import StoreFailed, UnknownOwner
from zuebee.billing.store_postgres import PostgresStore
from zuebee.contracts.admission import Amount

_log = logging.getLogger("zuebee.billing")


class Line(msgspec.Struct):
    """A settlement, and which batch of which owner it is a part of. `number`: its own, if it is done alone."""

    owner: int
    batch: int
    settle: Settle
    number: int = 0  # files of an earlier version do not say


def _plain(amount: object) -> dict[str, int]:
    if not isinstance(amount, Amount):
        raise TypeError(f"{type(amount).__name__} in a settlement")
    return {"tokens": amount.tokens, "cost_nano": amount.cost_nano}


def _amount(_: type[object], plain: object) -> Amount:
    return Amount(**msgspec.convert(plain, dict[str, int]))


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_decode = msgspec.json.Decoder(Line, dec_hook=_amount).decode


class Spool:
    """The file. Only one process may have it. All methods block and may raise OSError.

    `damaged` counts the lines that could not be read or done.
    """

    def __init__(self, path: str) -> None:
        self.damaged = 0
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            reason = "another process uses it; give each process a `store.spool_path` of its own"
            raise OSError(f"{path}: {reason}") from None
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self) -> list[Line]:
        """What is in it, in order. A last line that was cut off was never confirmed to anybody, and is left out."""
        lines = []
        content = self._path.read_bytes().split(b"\n")
        for number, text in enumerate(content, 1):
            if not text:
                continue
            try:
                lines.append(_decode(text))
            except msgspec.DecodeError:
                if number < len(content):
                    self.damaged += 1
                    self.keep_damaged()
                    _log.error("%s: line %d cannot be read; a copy of the file is beside it", self._path, number)
        return lines

    def append(self, lines: list[Line]) -> None:
        """Keep settlements."""
        content = b"".join(_encode(line) + b"\n" for line in lines)
        before = os.fstat(self._file).st_size
        try:
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, before)  # half a line would spoil the next
            raise

    def empty(self) -> None:
        """All of them are in the database."""
        os.ftruncate(self._file, 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._file)

    def keep_damaged(self) -> None:
        """Leave a copy for people, with the ending `.damaged`."""
        copy = self._path.with_name(f"{self._path.name}.damaged")
        if not copy.exists():
            copy.write_bytes(self._path.read_bytes())


def replay(store: PostgresStore, spool: Spool) -> int:
    """Do what an earlier process could not; answers with the number of settlements. Raises StoreBusy, OSError."""
    groups: dict[tuple[int, int], list[Line]] = {}
    lines = spool.read()
    for line in lines:
        groups.setdefault((line.owner, line.batch), []).append(line)
    for (owner, batch), group in groups.items():
        try:
            applied = store.applied(owner)
            # Some of them it may have done one by one.
            store.apply(batch, [line.settle for line in group if not 0 < line.number <= applied], owner)
        except StoreFailed as error:
            _log.error("%d settlements of an earlier process: %s; trying each alone", len(group), error)
            for line in sorted(group, key=lambda line: line.number):
                _do_alone(store, spool, line)
    spool.empty()
    return len(lines)


def _do_alone(store: PostgresStore, spool: Spool, line: Line) -> None:
    try:
        try:
            store.apply(line.number, [line.settle], line.owner)
        except UnknownOwner:
            store.apply(0, [line.settle])  # a store that was restored from before that process
    except StoreFailed as error:
        spool.damaged += 1
        spool.keep_damaged()
        _log.error("a settlement cannot be done: %s; a copy of the spool file is beside it", error)
