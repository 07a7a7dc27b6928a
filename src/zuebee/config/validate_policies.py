"""What reporters, limits, firewall and prices mean. PURE. No finding contains a value: it may be a secret."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple
from urllib.parse import urlsplit

import re2

from zuebee.config.settings_auth import FirewallRuleSettings, FirewallSettings
from zuebee.config.settings_base import LimitSettings, RateLimitSettings, RedisSettings
from zuebee.config.settings_billing import (
    BillingSettings,
    PriceSettings,
    ReporterDatabaseSettings,
    ReporterSettings,
    StoreSettings,
    UsageSettings,
)
from zuebee.config.yaml import Path
from zuebee.lib.patterns import is_clear
from zuebee.lib.sql.dsn import database_url

# What checks of a configuration answer with.


class Finding(NamedTuple):
    """One thing to say about the setting at a path."""

    path: Path
    message: str
    fatal: bool = True


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
            yield (*path, "headers", name), "the gateway sets this header itself; it cannot be configured", True
        elif re.search(r"[^\t\x20-\x7e\x80-\xff]", value):
            yield (*path, "headers", name), "a header cannot contain line breaks or control characters", True
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
        yield path, "a URL here cannot have a fragment (`#...`)", True


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


# What the limits in a configuration mean. PURE.

SLOW_REDIS_S = 0.2
"""A request may wait for Redis about twice: once behind the one before, once for itself."""


MAX_HEARTBEAT_S = 10.0
"""A third of the lease of a place: two heartbeats may fail."""


def limit_findings(
    limits: RateLimitSettings, redis: RedisSettings | None, renew_interval_s: float = 1.0
) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the limits."""
    if renew_interval_s > MAX_HEARTBEAT_S:
        message = (
            f"expected at most {MAX_HEARTBEAT_S:g}s: places of `max_concurrent` expire if they are not renewed for 30s"
        )
        yield ("billing", "renew_interval"), message, True
    if limits.enabled and limits.storage == "redis" and redis is None:
        yield ("rate_limit", "storage"), "`redis` needs `redis.url`: which Redis?", True
    if redis is not None:
        yield from _redis(redis)
    if limits.storage == "memory" and limits.processes > 1:
        message = "has no effect with `storage: memory`, where each process counts separately: use `storage: redis`"
        yield ("rate_limit", "processes"), message, False
    for name, scope in _scopes(limits):
        path: Path = ("rate_limit", *name)
        if scope.burst_size and not scope.requests_per_second:
            yield (*path, "burst_size"), "has no effect without `requests_per_second`", False
        if 0 < scope.burst_size < scope.requests_per_second:
            message = "less than `requests_per_second`: it refuses requests that come together although the rate fits"
            yield (*path, "burst_size"), message, False


def _scopes(limits: RateLimitSettings) -> Iterator[tuple[tuple[str, ...], LimitSettings]]:
    named: dict[tuple[str, ...], LimitSettings | None] = {
        ("global",): limits.everyone,
        ("per_key",): limits.per_key,
        ("per_user",): limits.per_user,
        ("per_team",): limits.per_team,
        ("per_organization",): limits.per_organization,
        ("per_model",): limits.per_model,
        ("per_path",): limits.per_path,
        ("per_address",): limits.per_address,
        ("anonymous",): limits.anonymous,
    }
    if limits.per_priority is not None:
        for priority in ("low", "normal", "high"):
            named["per_priority", priority] = getattr(limits.per_priority, priority)
    return ((name, scope) for name, scope in named.items() if scope is not None and scope.enabled)


def _redis(redis: RedisSettings) -> Iterator[tuple[Path, str, bool]]:
    try:
        parts = urlsplit(redis.url)
        known = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        known = False
    if not known:
        yield ("redis", "url"), "expected redis://HOST:PORT/DB, rediss://... or unix://PATH", True
    if redis.timeout_s > SLOW_REDIS_S:
        message = f"above {SLOW_REDIS_S * 1000:g} ms: when Redis is slow, every request may wait that long"
        yield ("redis", "timeout"), message, False


# What is wrong with the firewall's settings, beyond the types of their values.

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
BUILT_IN = frozenset(
    {
        "allowed_addresses", "browser_form", "content_types", "denied_addresses", "header_attack", "max_body_size",
        "max_choices", "max_header_bytes", "max_headers", "max_images", "max_output_tokens", "method", "path_trick",
        "scanner_agent", "scanner_path",
    }
)  # fmt: skip
"""Names that the firewall itself uses in refusals and metrics."""


def check_firewall(firewall: FirewallSettings, max_body_bytes: int) -> Iterator[Finding]:
    """Everything that is wrong, or worth a warning."""
    path: Path = ("firewall",)
    for name in ("allowed_addresses", "denied_addresses"):
        yield from _networks((*path, name), getattr(firewall, name))
    for index, text in enumerate(firewall.content_types):
        if not _MEDIA_TYPE.fullmatch(text):
            yield Finding((*path, "content_types", index), "expected a media type such as `application/json`")
    if firewall.max_body_size is not None and firewall.max_body_size > max_body_bytes:
        message = "has no effect: `server.max_body_size` is smaller"
        yield Finding((*path, "max_body_size"), message, fatal=False)
    first_with: dict[str, int] = {}
    for index, rule in enumerate(firewall.rules):
        here: Path = (*path, "rules", index)
        if rule.name in BUILT_IN:
            yield Finding((*here, "name"), "the name of a built-in rule; choose another")
        if (other := first_with.setdefault(rule.name, index)) != index:
            yield Finding((*here, "name"), f"the same name as `firewall.rules[{other}]`")
        yield from _rule(here, rule)


def _rule(path: Path, rule: FirewallRuleSettings) -> Iterator[Finding]:
    for name in ("addresses", "not_addresses"):
        yield from _networks((*path, name), getattr(rule, name))
    for index, method in enumerate(rule.methods):
        if not _TOKEN.fullmatch(method):
            yield Finding((*path, "methods", index), "not a method")
    for index, pattern in enumerate(rule.paths):
        yield from _pattern((*path, "paths", index), pattern)
    yield from _pattern((*path, "pattern"), rule.pattern)
    if rule.header and rule.header != "*" and not _TOKEN.fullmatch(rule.header):
        yield Finding((*path, "header"), "not a header name")
    searched = [name for name in ("header", "query", "body") if getattr(rule, name)]
    if len(searched) > 1:
        yield Finding(path, f"searches in {' and '.join(searched)}: write one rule for each")
    if rule.pattern and not searched:
        yield Finding((*path, "pattern"), "needs to know where to search: set `header`, `query` or `body`")
    if not rule.pattern and (rule.query or rule.body or rule.header == "*"):
        yield Finding((*path, "pattern"), "required, but missing")
    if not (rule.methods or rule.paths or rule.addresses or rule.not_addresses or searched):
        what = "lets everything pass" if rule.action == "allow" else "refuses everything"
        yield Finding(path, f"has no condition, so it {what}", fatal=rule.action == "deny")
    if rule.action == "allow" and rule.mode == "count":
        yield Finding((*path, "mode"), "an allow rule refuses nothing; leave `mode` out")


def _pattern(path: Path, pattern: str) -> Iterator[Finding]:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else b"?"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        yield Finding(path, f"not an RE2 pattern: {text}")


def _networks(path: Path, texts: Iterable[str]) -> Iterator[Finding]:
    for index, text in enumerate(texts):
        try:
            ipaddress.ip_network(text)
        except ValueError:
            yield Finding((*path, index), "expected an address or a range such as `10.0.0.0/8`")


# What the prices in a configuration mean. PURE.

NANO_PER_UNIT = 1_000_000_000
MAX_PRICE_NANO = 1 << 53
"""Of a million tokens: about nine million units of the currency."""

_AMOUNTS = (
    "input_per_million",
    "output_per_million",
    "cached_input_per_million",
    "cache_write_per_million",
    "reasoning_per_million",
)


def price_nano(text: str) -> int:
    """A decimal price in whole nano-units. Raises ValueError with what is expected."""
    try:
        price = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError("expected a decimal number such as `2.50`") from None
    if not price.is_finite() or price < 0:
        raise ValueError("expected a decimal number, 0 or more")
    if price > MAX_PRICE_NANO // NANO_PER_UNIT:
        raise ValueError(f"expected at most {MAX_PRICE_NANO // NANO_PER_UNIT}")
    nano = price * NANO_PER_UNIT
    if nano != int(nano):
        raise ValueError("expected at most nine digits behind the point")
    return int(nano)


def since_s(text: str) -> float:
    """A date or an RFC 3339 time, as seconds since 1970; without a zone it is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        raise ValueError("expected a date or an RFC 3339 time such as `2027-01-31T00:00:00Z`") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def price_findings(billing: BillingSettings) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the prices."""
    first_with: dict[tuple[str, float], int] = {}
    for index, row in enumerate(billing.prices):
        path: Path = ("billing", "prices", index)
        wrong = list(_row(path, row))
        yield from wrong
        if wrong:
            continue
        if (other := first_with.setdefault((row.model, since_s(row.since)), index)) != index:
            yield (*path, "since"), f"the same model and time as `billing.prices[{other}]`", True
    if billing.unknown_price == "cap" and billing.cap is None:
        yield ("billing", "cap"), "required by `unknown_price: cap`, but missing", True
    elif billing.cap is not None:
        yield from _row(("billing", "cap"), billing.cap)
        if billing.unknown_price != "cap":
            yield ("billing", "cap"), f"has no effect under `unknown_price: {billing.unknown_price}`", False
    if billing.built_in_prices and billing.currency != "USD":
        message = "built-in prices are in USD and not used with this currency; a model needs a row in `billing.prices`"
        yield ("billing", "currency"), message, False


def _row(path: Path, row: PriceSettings) -> Iterator[tuple[Path, str, bool]]:
    if not is_clear(row.model):
        yield (*path, "model"), "expected a model name, with `*` at its end at most", True
    try:
        since_s(row.since)
    except ValueError as error:
        yield (*path, "since"), str(error), True
    for name in _AMOUNTS:
        text = getattr(row, name)
        try:
            if text is not None:
                price_nano(text)
        except ValueError as error:
            yield (*path, name), str(error), True
