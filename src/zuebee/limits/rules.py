"""PURE. Which limits a request falls under."""

from collections.abc import Iterator

from zuebee.config import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Limit, Principal
from zuebee.contracts.limits import limits_of
from zuebee.kit.networks import network_of

SCOPES = (
    "global", "priority", "organisation", "team", "user", "key", "path", "model", "address", "anonymous"
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
        if principal.organisation_id:
            yield f"organisation:{principal.organisation_id}", settings.per_organisation
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
