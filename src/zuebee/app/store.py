"""The store: brought to its schema, and opened for work off the hot path."""

from zuebee.config import StoreSettings
from zuebee.kit.database import Database
from zuebee.kit.dsn import database_url
from zuebee.schema.prepare import prepare
from zuebee.schema.version import SchemaError


def prepare_store(store: StoreSettings) -> None:
    """Bring the store to the schema of this version. Raises OSError."""
    try:
        prepare(store.url or store.path)
    except SchemaError as error:
        said = str(error)
        raise OSError(said if store.url or store.path in said else f"{store.path}: {said}") from None


def store_database(store: StoreSettings, max_connections: int = 4, timeout_s: float | None = None) -> Database:
    """The store, for work off the hot path; `timeout_s` instead of its own. Raises ValueError."""
    url = f"sqlite:///{store.path}" if store.url is None else database_url("postgres", store.url)
    return Database(url, timeout_s=timeout_s or store.timeout_s, max_connections=max_connections)
