"""Data source names, as people write them, for SQLAlchemy; and what drivers say, for people. PURE."""

import re
from urllib.parse import quote

_GO_MYSQL = re.compile(
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>.*))?@)?(?:(?P<net>tcp|unix)\((?P<host>[^)]*)\))?/(?P<rest>.*)"
)
_DRIVERS = {"mysql": "mysql+pymysql", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}


def database_url(driver: str, dsn: str) -> str:
    """SQLAlchemy's URL of a driver (`mysql`, `postgres`, `sqlite`) and a DSN: a URL, a path, Go's MySQL form, or
    libpq's `key=value` words. Raises ValueError.
    """
    if driver == "sqlite":
        # As SQLAlchemy has it: three slashes before a relative path, four before an absolute one.
        return f"sqlite:///{sqlite_path(dsn)}"
    scheme, separator, rest = dsn.partition("://")
    if separator:
        if scheme.partition("+")[0] not in ("mysql", "mariadb", "postgres", "postgresql"):
            raise ValueError("expected a database URL")
        return f"{_DRIVERS[driver]}://{_without_foreign(driver, rest)}"
    if driver == "postgres":
        words = dict(re.findall(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", dsn))
        words = {name: value for name, value in words.items() if name != "TimeZone"}  # GORM's, not libpq's
        if not words:
            raise ValueError("expected a URL or `host=... dbname=...`")
        query = "&".join(f"{name}={quote(value.strip(chr(39)), safe='')}" for name, value in words.items())
        return f"{_DRIVERS[driver]}:///?{query}"
    found = _GO_MYSQL.fullmatch(dsn)
    if found is None:
        raise ValueError("expected a URL or `user:password@tcp(host:3306)/name`")
    login = ""
    if found["user"]:
        password = f":{quote(found['password'], safe='')}" if found["password"] else ""
        login = f"{quote(found['user'], safe='')}{password}@"
    name = found["rest"].partition("?")[0]
    if found["net"] == "unix":
        return f"{_DRIVERS[driver]}://{login}/{name}?unix_socket={quote(found['host'], safe='')}"
    return f"{_DRIVERS[driver]}://{login}{found['host'] or '127.0.0.1:3306'}/{name}"


def sqlite_path(dsn: str) -> str:
    """The path in what names a SQLite file: a path, or a URL."""
    return re.sub(r"^(sqlite3?:///?|file:(//)?)", "", dsn).partition("?")[0]


def _without_foreign(driver: str, rest: str) -> str:
    """Without what only Go's drivers understand (`parseTime`, `loc`, `TimeZone`)."""
    address, _, query = rest.partition("?")
    ours = ("charset", "unix_socket") if driver == "mysql" else None
    kept = [
        pair
        for pair in query.split("&")
        if pair and (pair.partition("=")[0] in ours if ours else pair.partition("=")[0] != "TimeZone")
    ]
    return f"{address}?{'&'.join(kept)}" if kept else address


# What the driver of a database says when it fails, without statement, values and address. PURE.


def reason(error: Exception) -> str:
    """The cause of a failure, and its kind: `no such table: keys (OperationalError)`."""
    cause = getattr(error, "orig", None) or error
    name, words = type(cause).__name__, _words(cause)
    return f"{words} ({name})" if words else name


def connection_words(text: str) -> str:
    """What libpq says of a connection that failed, without the address, parts of which may be of a password."""
    said, fatal, refusal = text.partition("FATAL:")
    line = refusal if fatal else said.rpartition("failed: ")[2]
    return re.sub(r"host( name)? (['\"]).*?\2", "the host", line.strip().partition("\n")[0])


def _words(cause: BaseException) -> str:
    room = type(cause).__module__.partition(".")[0]
    if room == "sqlite3":
        return str(cause).partition("\n")[0]
    if room == "psycopg":
        primary = str(getattr(getattr(cause, "diag", None), "message_primary", None) or "")
        # A value stands in quotes behind a colon.
        if primary:
            return primary.partition(': "')[0]
        return connection_words(str(cause)) if type(cause).__name__ == "OperationalError" else ""
    code = cause.args[0] if room == "pymysql" and cause.args else None
    return f"error {code}" if isinstance(code, int) else ""
