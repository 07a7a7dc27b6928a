"""PURE. What a map from Redis, a database or a webhook says about a key.

The names are LLMProxy's. A value that cannot be read is a ValueError that names its field: it refuses, it is never
passed over.
"""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast, get_args

import msgspec

from zuebee.config.settings_base import MAX_NUMBER, LimitSettings
from zuebee.contracts.admission import Budget, Limit, Period, Principal, Priority, some_tags
from zuebee.contracts.errors import ADDRESS_REFUSED, KEY_DISABLED, KEY_EXPIRED, KEY_NOT_STARTED, KEY_REVOKED, Refusal
from zuebee.contracts.keys import KeyRecord
from zuebee.contracts.limits import limits_of
from zuebee.lib.networks import Network, parse_networks, within
from zuebee.lib.patterns import Patterns, narrow

QUOTA_EXCEEDED = Refusal(429, "insufficient_quota", "quota_exceeded", "The token quota of this API key is used up.")
NO_BALANCE = Refusal(402, "insufficient_quota", "insufficient_balance", "The balance of this API key is used up.")
NOT_ADMITTED = Refusal(403, "permission_error", "access_denied", "This API key was not accepted.")

Data: TypeAlias = Mapping[str, Any]

_STATUSES = {
    "0": None, "active": None, "1": KEY_DISABLED, "disabled": KEY_DISABLED, "2": QUOTA_EXCEEDED,
    "quota_exceeded": QUOTA_EXCEEDED, "3": KEY_EXPIRED, "expired": KEY_EXPIRED,
}  # fmt: skip
_RATES = (
    "requests_per_second", "burst_size", "requests_per_minute", "requests_per_hour", "requests_per_day",
    "tokens_per_minute", "tokens_per_hour", "tokens_per_day", "max_concurrent",
)  # fmt: skip
_SYNONYMS = {
    "user_id": ("user_id", "user"),
    "name": ("name",),
    "team_id": ("team_id", "team"),
    "organization_id": ("organization_id", "organization", "organisation_id", "organisation", "org_id"),
    "plan": ("plan",),
}
_LISTS = {"tags": ("tags",), "models": ("models", "allowed_models"), "endpoints": ("endpoints", "allowed_endpoints")}
_MILLISECONDS_FROM = 1e11  # a unix time beyond it (the year 5138) is meant in milliseconds


def key_id_of(digest: str) -> str:
    """The name of a key that has no other: part of its digest."""
    return "key_" + digest[:16]


def record_of(data: Data, digest: str) -> KeyRecord:
    """The record that a map means. Raises ValueError."""
    key_id = key_id_of(digest)
    principal = with_fields(Principal(key_id, key_id, limits=rates_of(key_id, data)), data)
    principal = replace(principal, user_id=principal.user_id or principal.name, budgets=_budgets(key_id, data))
    return KeyRecord(
        digest=digest,
        principal=principal,
        starts_at_s=_time(data, "starts_at"),
        expires_at_s=_time(data, "expires_at") or _time(data, "expired_at"),
        allowed=_networks(data, "allowed_ips"),
        denied=_networks(data, "denied_ips"),
        refusal=objection(data),
        data=data,
    )


def objection(data: Data) -> Refusal | None:
    """What status, quota and balance say against a key. Empty ones say nothing; an unknown status refuses."""
    status = data.get("status")
    if not _missing(status):
        word = "no" if isinstance(status, bool) else str(status).strip().lower()
        if (refusal := _STATUSES.get(word, KEY_DISABLED)) is not None:
            return refusal
    total = _number(data, "total_quota")
    if total is not None and total > 0 and (_number(data, "used_quota") or 0) >= total:
        return QUOTA_EXCEEDED
    balance = _number(data, "balance")
    return NO_BALANCE if balance is not None and balance <= 0 else None


def with_fields(principal: Principal, data: Data) -> Principal:
    """The principal, with what a map says of the user, the team, the plan and the rest. Raises ValueError."""
    changes: dict[str, Any] = {}
    for field, names in _SYNONYMS.items():
        if (text := _first(data, names)) is not None:
            changes[field] = _text(text, field)
    for field, names in _LISTS.items():
        if (found := _first(data, names)) is not None:
            changes[field] = _texts(found, field)
    if "tags" in changes:
        changes["tags"] = some_tags(changes["tags"])
    if (priority := data.get("priority")) in get_args(Priority):
        changes["priority"] = priority
    return replace(principal, **changes) if changes else principal


def rates_of(key_id: str, data: Data) -> tuple[Limit, ...]:
    """The limits of a key that a map names, in itself or in a map `limits`. Raises ValueError."""
    inner = {} if _missing(data.get("limits")) else _decoded(data["limits"], "limits")
    if not isinstance(inner, Mapping):
        raise ValueError("limits: expected a map")
    rates: dict[str, int] = {}
    for source in (data, inner):
        for name in _RATES:
            if (value := _number(source, name)) is not None:
                rates[name] = _whole(value, name)
    return limits_of(f"key:{key_id}", msgspec.convert(rates, LimitSettings)) if rates else ()


def _budgets(key_id: str, data: Data) -> tuple[Budget, ...]:
    total = _number(data, "total_quota")
    if total is None or total <= 0:
        return ()
    period = str(data.get("quota_reset_period") or "never").lower()
    if period not in get_args(Period):
        raise ValueError("quota_reset_period: expected daily, weekly, monthly or never")
    used = _whole(_number(data, "used_quota") or 0, "used_quota")
    account = f"key:{key_id}/tokens/{period}"
    return (Budget(account, "tokens", cast(Period, period), _whole(total, "total_quota"), used),)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _first(data: Data, names: Sequence[str]) -> Any:
    return next((data[name] for name in names if not _missing(data.get(name))), None)


def _text(value: Any, field: str) -> str:
    if isinstance(value, Mapping | list | bool):
        raise ValueError(f"{field}: expected a text")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if len(text) > 256 or not text.isprintable():
        raise ValueError(f"{field}: too long, or not printable")
    return text


def _texts(value: Any, field: str) -> tuple[str, ...]:
    """A list, JSON of a list, or words between commas."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        value = [part for part in value.split(",") if part.strip()]
    value = _decoded(value, field)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field}: expected a list")
    return tuple(_text(each, field) for each in value)


def _decoded(value: Any, field: str) -> Any:
    if not isinstance(value, str) or _missing(value):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise ValueError(f"{field}: not JSON") from None


def _number(data: Data, field: str) -> float | int | None:
    """A number as any database or JSON has it."""
    value = data.get(field)
    if _missing(value):
        return None
    try:
        if isinstance(value, bool | Mapping | list):
            raise ValueError
        number = value if isinstance(value, int) else float(value)  # type: ignore[arg-type]
        if number != number:
            raise ValueError
        return number
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{field}: expected a number") from None


def _whole(value: float | int, field: str) -> int:
    if not 0 <= value <= MAX_NUMBER or value != int(value):
        raise ValueError(f"{field}: expected a whole number from 0 to 2^53")
    return int(value)


def _networks(data: Data, field: str) -> tuple[Network, ...]:
    value = data.get(field)
    if _missing(value):
        return ()
    try:
        return parse_networks(_texts(value, field))
    except ValueError:
        raise ValueError(f"{field}: expected addresses or ranges such as 10.0.0.0/8") from None


def _time(data: Data, field: str) -> float:
    """Seconds since 1970 of a unix time, an RFC 3339 text, or a date and time of SQL (without a zone: UTC)."""
    value = data.get(field)
    if _missing(value):
        return 0.0
    try:
        if isinstance(value, datetime | date):
            return _instant(value)
        if isinstance(value, str) and not value.strip().lstrip("-").replace(".", "", 1).isdigit():
            return _instant(datetime.fromisoformat(value.strip().upper()))
        at_s = _number(data, field) or 0
        return at_s / 1000 if abs(at_s) >= _MILLISECONDS_FROM else float(at_s)
    except (ValueError, OverflowError):
        raise ValueError(f"{field}: expected a time") from None


def _instant(value: datetime | date) -> float:
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


# Credentials: finding the key in a request, and judging the record that belongs to it.

MAX_KEY_BYTES: Final = 16_384
"""Keys are short, but tokens of some issuers name all the groups of a user."""
MAX_KNOWN_KEY_BYTES: Final = 128
"""The digests of shorter keys are remembered for a while."""
Finish: TypeAlias = Callable[[Principal], Awaitable[Principal | Refusal]]
"""Gives a principal that names a plan, a user, a team or an organization what these are entitled to, or refuses it."""
_SENDABLE: Final = re.compile(rb"[\x21-\x7e]+")


async def unchanged(principal: Principal) -> Principal | Refusal:
    """A `Finish` for when nobody knows more of a principal than it says itself."""
    return principal


def sendable(key: bytes) -> bool:
    """Whether a key has only characters that a header can carry: no others are ever looked up anywhere."""
    return _SENDABLE.fullmatch(key) is not None


def digest_of(key: bytes) -> str:
    """The form in which keys are kept and compared: SHA-256 in hex."""
    return _known_digest(key) if len(key) <= MAX_KNOWN_KEY_BYTES else hashlib.sha256(key).hexdigest()


@lru_cache(2048)
def _known_digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def same_digest(one: str, other: str) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(one, other)


def find_key(fields: Mapping[bytes, bytes], carriers: Sequence[bytes]) -> bytes | None:
    """The key of a request: the first of the carriers (header names in lower case) that holds one.

    `authorization` must hold a bearer token (RFC 6750; the scheme in any case), other headers the key itself.
    """
    for carrier in carriers:
        value = fields.get(carrier)
        if value is None or len(value) > MAX_KEY_BYTES:
            continue
        if carrier == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                continue
        if key := value.strip():
            return key
    return None


def judge(record: KeyRecord, address: str, now_s: float) -> Refusal | None:
    """Whether a known key may be used now and from here; `record.refusal` is left to the caller."""
    if record.revoked:
        return KEY_REVOKED
    if not record.active:
        return KEY_EXPIRED if record.expired else KEY_DISABLED
    if record.expires_at_s and now_s >= record.expires_at_s:
        return KEY_EXPIRED
    if now_s < record.starts_at_s:
        return KEY_NOT_STARTED
    if record.denied and within(address, record.denied):
        return ADDRESS_REFUSED
    if record.allowed and not within(address, record.allowed):
        return ADDRESS_REFUSED
    return None


# One principal out of what several sources agree on: none may widen what another one narrowed.

NOTHING = "-"
"""A pattern that no model and no path has: all lists together leave nothing."""


def merged(principals: Sequence[Principal]) -> Principal:
    """The first one, with the limits, budgets and restrictions of all."""
    first, *others = principals
    for other in others:
        first = replace(
            first,
            tags=some_tags(first.tags, other.tags),
            models=_both(first.models, other.models),
            endpoints=_both(first.endpoints, other.endpoints),
            limits=_limits((*first.limits, *other.limits)),
            budgets=_merged_budgets((*first.budgets, *other.budgets)),
            priority="low" if other.priority == "low" else first.priority,
        )
    return first


def _both(ours: Patterns, theirs: Patterns) -> Patterns:
    both = narrow((ours, theirs))
    return (NOTHING,) if both is None else both


def _limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    found: dict[tuple[str, str, int], Limit] = {}
    for limit in limits:
        name = (limit.subject, limit.kind, limit.window_s)
        known = found.get(name)
        # An amount of 0 is no limit.
        if known is None or not known.amount or 0 < limit.amount < known.amount:
            found[name] = limit
    return tuple(found.values())


def _merged_budgets(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    found: dict[str, Budget] = {}
    for budget in budgets:
        known = found.setdefault(budget.account, budget)
        if known is not budget:
            # Without a limit of its own only what was paid in may be spent: that is the smallest.
            limits = [each.limit for each in (known, budget) if each.limit is not None]
            smaller = min(limits) if len(limits) == 2 else None
            used = max(known.used_before, budget.used_before)
            found[budget.account] = replace(known, limit=smaller, used_before=used)
    return tuple(found.values())
