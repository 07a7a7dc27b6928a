"""PURE. Which limits a request falls under, and what callers are told of them."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Limit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers
from zuebee.contracts.limits import limits_of
from zuebee.lib.networks import network_of

# How a limit stands.


class State:
    """How one limit stands: `remaining` of `amount`, and seconds until nothing is counted any more."""

    def __init__(self, kind: str, amount: int, remaining: int, reset_s: float) -> None:
        self.kind: Final = kind
        self.amount: Final = amount
        self.remaining: Final = remaining
        self.reset_s: Final = reset_s


SCOPES = (
    "global", "priority", "organization", "team", "user", "key", "path", "model", "address", "anonymous"
)  # fmt: skip
STRANGERS = frozenset({"model", "address", "anonymous"})
"""Scopes whose members callers can invent."""


class Scopes:
    """The limits of the settings. `by_address`, `by_model`, `by_route`: whether such limits are set at all."""

    def __init__(self, settings: RateLimitSettings) -> None:
        self._on = settings.enabled
        self._settings = settings
        classes = settings.per_priority
        self._priorities: dict[str, LimitSettings | None] = {}
        if classes is not None:
            self._priorities = {"low": classes.low, "normal": classes.normal, "high": classes.high}
        self.by_address = _is_on(settings.per_address) or _is_on(settings.anonymous)
        self.by_model = _is_on(settings.per_model)
        self.by_route = _is_on(settings.per_path)

    def limits_for(self, principal: Principal, route: str, model: str, address: str) -> tuple[Limit, ...]:
        """All limits of one request, each counter once.

        A limit that the principal brings replaces that of the settings with the same subject, kind and window.
        """
        if not self._on:
            return ()
        found: dict[tuple[str, str, int], Limit] = {}
        for subject, rates in self._members(principal, route, model, address):
            if rates is not None and rates.enabled:
                for limit in limits_of(subject, rates):
                    found[subject, limit.kind, limit.window_s] = limit
        for limit in principal.limits:
            found[limit.subject, limit.kind, limit.window_s] = limit
        return tuple(limit for limit in found.values() if limit.amount > 0)

    def _members(
        self, principal: Principal, route: str, model: str, address: str
    ) -> Iterator[tuple[str, LimitSettings | None]]:
        settings = self._settings
        yield "global", settings.everyone
        yield f"priority:{principal.priority}", self._priorities.get(principal.priority)
        if principal.organization_id:
            yield f"organization:{principal.organization_id}", settings.per_organization
        if principal.team_id:
            yield f"team:{principal.team_id}", settings.per_team
        if principal.user_id:
            yield f"user:{principal.user_id}", settings.per_user
        if principal.key_id:
            yield f"key:{principal.lineage or principal.key_id}", settings.per_key
        yield f"path:{route}", settings.per_path
        if model and self.by_model:
            yield f"model:{model}", settings.per_model
        if address and self.by_address:
            network = network_of(address)
            yield f"address:{network}", settings.per_address
            if not principal.key_id:
                yield f"anonymous:{network}", settings.anonymous


def scope_of(limit: Limit) -> str:
    """The scope of a limit, of which there are few: what its subject begins with."""
    scope = limit.subject.partition(":")[0]
    return scope if scope in SCOPES else "other"


def _is_on(rates: LimitSettings | None) -> bool:
    return rates is not None and rates.enabled


# What callers are told of limits: `x-ratelimit-*` fields and refusals.

UNKNOWN_WAIT_S: Final = 1.0
"""When a place among the running requests comes free, nobody knows."""

UNAVAILABLE: Final = Refusal(
    503,
    "api_error",
    "limits_unavailable",
    "The limits of this request cannot be checked just now.",
    retry_after_s=1.0,
    should_retry=True,
)
_WHO: Final = {
    "global": "all callers together",
    "priority": "requests of this priority class",
    "organization": "this organization",
    "team": "this team",
    "user": "this user",
    "key": "this key",
    "path": "this endpoint",
    "model": "this model",
    "address": "this address",
    "anonymous": "callers without a key at this address",
    "other": "this caller",
}
_WINDOWS: Final = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day"}


def limit_headers(states: Iterable[State]) -> Headers:
    """The tightest limit of requests and of tokens, by OpenAI's names, and the former by LLMProxy's as well."""
    requests: State | None = None
    tokens: State | None = None
    for state in states:
        if state.kind == "requests":
            if requests is None or state.remaining < requests.remaining:
                requests = state
        elif tokens is None or state.remaining < tokens.remaining:
            tokens = state
    headers: Headers = []
    if requests is not None:
        amount, remaining = _digits(requests.amount), b"%d" % requests.remaining
        headers = [
            (b"x-ratelimit-limit-requests", amount),
            (b"x-ratelimit-remaining-requests", remaining),
            (b"x-ratelimit-reset-requests", duration(requests.reset_s)),
            (b"x-ratelimit-limit", amount),
            (b"x-ratelimit-remaining", remaining),
        ]
    if tokens is not None:
        headers += (
            (b"x-ratelimit-limit-tokens", _digits(tokens.amount)),
            (b"x-ratelimit-remaining-tokens", b"%d" % tokens.remaining),
            (b"x-ratelimit-reset-tokens", duration(tokens.reset_s)),
        )
    return headers


def duration(value_s: float) -> bytes:
    """Seconds as OpenAI writes them: `17ms`, `6s`, `1m0s`, `2h0m0s`; never less than it is."""
    if value_s < 1.0:
        return b"%dms" % math.ceil(value_s * 1000)
    return _whole(math.ceil(value_s))


@lru_cache(maxsize=1024)
def _digits(amount: int) -> bytes:
    return b"%d" % amount


@lru_cache(maxsize=1024)
def _whole(value_s: int) -> bytes:
    minutes, seconds = divmod(value_s, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds


def refusal_of(limit: Limit, wait_s: float, tokens: int, states: Iterable[State]) -> Refusal:
    """429: this limit is reached; `wait_s` until it fits, had nothing else come."""
    who = _WHO[scope_of(limit)]
    headers = tuple(limit_headers(states))
    if limit.kind == "concurrent":
        text = f"Too many requests at once for {who}: at most {limit.amount}."
        return _too_many("concurrent_limit_exceeded", text, wait_s, headers)
    window = _WINDOWS.get(limit.window_s, f"{limit.window_s} s")
    burst = f", {limit.burst} at once" if limit.burst else ""
    text = f"Rate limit reached for {who}: {limit.amount} {limit.kind} {window}{burst}."
    again = f"Try again in {math.ceil(wait_s)} s."
    if limit.kind == "tokens":
        counts = min(tokens, limit.burst or limit.amount)
        text = f"{text} This request counts as {counts}. {again}"
        return _too_many("token_rate_limit_exceeded", text, wait_s, headers)
    return _too_many("rate_limit_exceeded", f"{text} {again}", wait_s, headers)


def _too_many(code: str, message: str, wait_s: float, headers: tuple[tuple[bytes, bytes], ...]) -> Refusal:
    return Refusal(429, "rate_limit_error", code, message, None, wait_s, should_retry=True, headers=headers)
