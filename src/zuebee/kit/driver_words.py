"""What the driver of a database says when it fails, without statement, values and address. PURE."""

import re


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
