"""PURE. What a known caller may do: authorisation, as a step of its own after authentication."""

from collections.abc import Sequence
from typing import Final

from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import MAX_SHOWN_NAME, NAMES_NO_MODEL, WHICH_MODELS, Refusal

MAX_SHOWN: Final = 10


def may_knock(principal: Principal, route: str) -> Refusal | None:
    """Whether the caller may use this endpoint."""
    if not principal.endpoints or matches(route, principal.endpoints):
        return None
    message = f"This API key may not use this endpoint. It may use: {_few(principal.endpoints)}."
    return Refusal(403, "permission_error", "endpoint_not_allowed", message)


def may_use(principal: Principal, model: str) -> Refusal | None:
    """Whether the caller may use this model."""
    if not principal.models or matches(model, principal.models):
        return None
    if not model:
        return NAMES_NO_MODEL
    message = f"This API key may not use the model `{model[:MAX_SHOWN_NAME]}`. {WHICH_MODELS}"
    return Refusal(403, "permission_error", "model_not_allowed", message, "model")


def _few(patterns: Sequence[str]) -> str:
    more = f" and {len(patterns) - MAX_SHOWN} more" if len(patterns) > MAX_SHOWN else ""
    return ", ".join(f"`{pattern[:MAX_SHOWN_NAME]}`" for pattern in patterns[:MAX_SHOWN]) + more


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns; `*` at the end of a pattern stands for any rest."""
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)
