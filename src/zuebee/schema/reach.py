"""Whether a PostgreSQL lets us in just now, and if not, whether it is worth waiting for."""

import psycopg
from psycopg.conninfo import conninfo_to_dict

from zuebee.schema.version import StoreRefused, StoreUnreachable

# Libpq does not tell the code of a failure to connect, so its words must do. Words that are not known (a server may
# speak any language) are waited for: they are in the log.
_MISTAKES = (
    "authentication failed", "does not exist", "no such database", "no such user", "no password supplied",
    "no pg_hba.conf entry", "not permitted to log in", "permission denied", "unrecognized configuration parameter",
    "certificate", "but SSL was required",
)  # fmt: skip
_NOT_YET = ("starting up", "shutting down", "accepting connections", "in recovery mode")
_FULL = ("too many", "slots are reserved", "no more connections")


def reach(url: str, timeout_s: int) -> None:
    """Connect once. Raises StoreUnreachable (nobody listens, no answer, starting up, too many connections), and
    StoreRefused for what waiting does not mend. Blocks.
    """
    secret = str(_parts(url).get("password") or "")
    try:
        psycopg.connect(url, connect_timeout=timeout_s).close()
    except psycopg.Error as error:
        words = _words(error)
        shown = words.replace(secret, "***") if secret else words
        if any(sign in words for sign in _MISTAKES):
            raise StoreRefused(f"the database does not let us in: {shown}") from None
        if any(sign in words for sign in _FULL):
            raise StoreUnreachable(f"it has too many connections ({shown})") from None
        if any(sign in words for sign in _NOT_YET):
            raise StoreUnreachable(f"it takes no connections yet ({shown})") from None
        raise StoreUnreachable(f"it does not answer ({shown})") from None


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


def _words(error: psycopg.Error) -> str:
    """What the server or the driver said, without the address before it."""
    said, fatal, refusal = str(error).partition("FATAL:")
    line = refusal if fatal else said.rpartition("failed: ")[2]
    return line.strip().partition("\n")[0] or type(error).__name__
