"""What the reporters in a configuration mean. PURE. No finding contains a value: it may be a secret."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from zuebee.config.money import ReporterDatabaseSettings, ReporterSettings, StoreSettings, UsageSettings
from zuebee.kit.dsn import database_url
from zuebee.kit.yaml_tree import Path

MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
SECRET_PREFIX = "whsec_"

Found = tuple[Path, str, bool]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)


def signing_secret(text: str) -> bytes:
    """The key in a secret: base64, after `whsec_` if that is there. Raises ValueError, without the secret."""
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected base64, as in `whsec_...`") from None
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise ValueError(f"expected {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, got {len(secret)}")
    return secret


def usage_findings(usage: UsageSettings, store: StoreSettings, is_file: Callable[[str], bool]) -> Iterator[Found]:
    """(path, message, fatal) of everything that is wrong with the reporters. Those that are off are not looked at."""
    first_with: dict[str, int] = {}
    for index, reporter in enumerate(usage.reporters):
        path: Path = ("usage", "reporters", index)
        if (other := first_with.setdefault(reporter.name, index)) != index:
            yield (*path, "name"), f"the same name as `usage.reporters[{other}]`", True
        if not usage.enabled or not reporter.enabled:
            continue
        if reporter.type == "webhook":
            yield from _webhook(path, reporter, is_file)
        elif reporter.type == "database":
            yield from _database(path, reporter.database, store)


def _webhook(path: Path, reporter: ReporterSettings, is_file: Callable[[str], bool]) -> Iterator[Found]:
    if reporter.url is None:
        yield (*path, "url"), "required, but missing", True
    else:
        yield from _url((*path, "url"), reporter.url)
    for name, value in reporter.headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield (*path, "headers", name), "not a header name", True
        elif name.lower() in _OURS:
            yield (*path, "headers", name), "a header that the gateway must write itself", True
        elif re.search(r"[^\t\x20-\x7e\x80-\xff]", value):
            yield (*path, "headers", name), "a header cannot contain line breaks or such characters", True
    for index, secret in enumerate(reporter.secrets):
        try:
            signing_secret(secret)
        except ValueError as error:
            yield (*path, "secrets", index), str(error), True
    if reporter.ca_file is not None and not is_file(reporter.ca_file):
        yield (*path, "ca_file"), "no such file, or it cannot be read", True


def _url(path: Path, text: str) -> Iterator[Found]:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        yield path, "not a URL", True
        return
    if url.scheme not in ("http", "https"):
        yield path, "expected a URL that begins with `http://` or `https://`", True
    elif not url.hostname or port == 0 or re.search(r"[^\x21-\x7e]", text):
        yield path, "not a URL with a host", True
    elif "@" in url.netloc:
        yield path, "a URL with a user or password is not accepted; use `headers`", True
    elif url.fragment:
        yield path, "a fragment is never sent", True


def _database(path: Path, database: ReporterDatabaseSettings | None, store: StoreSettings) -> Iterator[Found]:
    if database is None:
        yield (*path, "database"), "required, but missing", True
        return
    try:
        url = database_url(database.driver, database.dsn)
    except ValueError as error:
        yield (*path, "database", "dsn"), str(error), True
        return
    try:
        own = database_url("sqlite", store.path) if store.url is None else database_url("postgres", store.url)
    except ValueError:
        return  # said where it is written
    if url == own and database.table.rpartition(".")[2].startswith(("usage_", "ledger_")):
        message = "is the store itself: use `type: builtin`, or a table name that does not begin with `usage_`"
        yield (*path, "database", "table"), message, True
