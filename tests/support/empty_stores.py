"""Stores with nothing in them, made once and then copied."""

from pathlib import Path as FilePath

from zuebee.schema.prepare import prepare

_EMPTY: list[bytes] = []


def empty_store(path: FilePath) -> None:
    """A database with empty tables; made once, then copied."""
    if not _EMPTY:
        prepare(str(path))
        _EMPTY.append(path.read_bytes())
    path.write_bytes(_EMPTY[0])


def empty_database(url: str) -> None:
    """The same for a URL of SQLAlchemy; what is no file, or is there, is left to `metadata.create_all`."""
    kind, _, path = url.partition(":///")
    if kind == "sqlite" and path and not FilePath(path).exists():
        empty_store(FilePath(path))
