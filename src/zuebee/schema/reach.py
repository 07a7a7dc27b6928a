"""Whether a PostgreSQL lets us in just now, and if not, whether it is worth waiting for."""

import psycopg
from psycopg.conninfo import conninfo_to_dict

from zuebee.lib.sql.postgres import connect
from zuebee.schema.version import StoreRefused, meaning_of


def reach(url: str, timeout_s: int) -> None:
    """Ask once, in a transaction. Raises StoreUnreachable (nobody listens, no answer, starting up, too many
    connections), and StoreRefused for what waiting does not mend. Blocks.
    """
    try:
        with connect(url, timeout_s=timeout_s) as link:
            link.execute("SELECT 1")  # a pooler lets us in where no server is
    except psycopg.Error as error:
        raise meaning_of(error, str(_parts(url).get("password") or "")) from None


def place(url: str) -> str:
    """Where the database is: host, port and name. Raises StoreRefused."""
    parts = _parts(url)
    return f"{parts.get('host', '')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def _parts(url: str) -> dict[str, object]:
    """What a URL says. A password that was not escaped may be in any part of it: nothing of a bad one is repeated."""
    try:
        parts: dict[str, object] = dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        parts = {"port": "?"}
    if not all(port.isdigit() for port in str(parts.get("port", 5432)).split(",")):
        raise StoreRefused("store.url cannot be understood: special characters of a password must be escaped")
    return parts
