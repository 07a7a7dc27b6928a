"""The store, brought to its schema and opened for work off the hot path; and clients of Redis."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zuebee.config.settings_billing import StoreSettings
from zuebee.lib.sql.database import Database
from zuebee.lib.sql.dsn import database_url
from zuebee.schema.prepare import prepare
from zuebee.schema.version import NoStore, SchemaError


def prepare_store(store: StoreSettings, *, make: bool = True, said: Callable[[str], None] = lambda _: None) -> None:
    """Bring the store to the schema of this version; without `make` only one that is there. Raises OSError."""
    try:
        if not make and store.url is None and not Path(store.path).is_file():
            raise NoStore("there is no such file: `zuebee run` makes a store")
        prepare(store.url or store.path, make=make, said=said)
    except SchemaError as error:
        text = str(error)
        raise OSError(text if store.url or store.path in text else f"{store.path}: {text}") from None


def store_database(store: StoreSettings, max_connections: int = 4, timeout_s: float | None = None) -> Database:
    """The store, for work off the hot path; `timeout_s` instead of its own. Raises ValueError."""
    url = f"sqlite:///{store.path}" if store.url is None else database_url("postgres", store.url)
    return Database(url, timeout_s=timeout_s or store.timeout_s, max_connections=max_connections)


def store_place(store: StoreSettings) -> str:
    """Where the store is, for people: a whole path, or host, port and name; no password. Raises OSError."""
    if store.url is None:
        return str(Path(store.path).absolute())
    from zuebee.schema.reach import place  # its driver takes 0.15 s to import, which SQLite can do without

    try:
        return f"PostgreSQL at {place(store.url)}"
    except SchemaError as error:
        raise OSError(str(error)) from None


def left_behind(as_written: StoreSettings, store: StoreSettings) -> list[str]:
    """Warnings about stores where versions before this looked for them: below the folder of the process, not below
    that of the configuration file. Raises OSError if one is there and none at the new place: a second would be made.
    """
    warnings = []
    names = ("path",) if store.url is None else ("spool_path",)
    for name in names:
        old, new = Path(getattr(as_written, name)), Path(getattr(store, name))
        if not _has_something(old) or (new.exists() and new.samefile(old)):
            continue
        said = f"`store.{name}` is relative to the configuration file: {new}"
        if not _has_something(new):
            raise OSError(
                f"{said}. There is nothing, but {old.absolute()} is there, where versions before this one looked. "
                f"Move it there (with what is beside it), or write `store.{name}: {old.absolute()}`"
            )
        warnings.append(f"{said}. {old.absolute()}, where versions before this one looked, is not used")
    return warnings


def _has_something(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


# Clients of Redis, for the processes that have one.

if TYPE_CHECKING:
    from zuebee.lib.redis import RedisClient


def redis_client(url: str, *, timeout_s: float, retry_after_s: float = 1.0) -> "RedisClient":
    """A client of the Redis at `url`. Raises ValueError if that is none."""
    from zuebee.lib.redis import RedisClient  # takes 0.04 s to import, which most starts can do without

    return RedisClient(url, timeout_s=timeout_s, retry_after_s=retry_after_s)
