"""PURE. What a known caller may do: authorisation, as a step of its own after authentication."""

from collections.abc import Sequence

from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal


def may_knock(principal: Principal, route: str) -> Refusal | None:
    """Whether the caller may use this endpoint."""
    if not principal.endpoints or matches(route, principal.endpoints):
        return None
    return Refusal(403, "permission_error", "endpoint_not_allowed", "This API key may not use this endpoint.")


def may_use(principal: Principal, model: str) -> Refusal | None:
    """Whether the caller may use this model."""
    if not principal.models or matches(model, principal.models):
        return None
    message = "This API key may not use this model."
    return Refusal(403, "permission_error", "model_not_allowed", message, "model")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns; `*` at the end of a pattern stands for any rest."""
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)
