"""Puts on the disk what SQLite has committed: flushes its write-ahead log through a descriptor of our own."""

import os
from typing import Protocol

_flush = getattr(os, "fdatasync", os.fsync)  # not every system has the cheaper one


class Log(Protocol):
    """The write-ahead log of a database that stays open meanwhile."""

    def flush(self) -> None:
        """Return when all that was committed is on the disk. Raises OSError."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class WalFile:
    """The file beside the database at `path`. Some connection has it open already, and keeps it open for longer than
    this: SQLite makes another one only after the last connection was closed. Raises OSError.
    """

    def __init__(self, path: str) -> None:
        # No locks are lost with this descriptor: SQLite has none on this file.
        self._file = os.open(f"{path}-wal", os.O_RDWR)
        try:
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            try:
                os.fsync(folder)  # its name, too
            finally:
                os.close(folder)
        except OSError:
            self.close()
            raise

    def flush(self) -> None:
        _flush(self._file)

    def close(self) -> None:
        os.close(self._file)
