"""PURE. Which Gemini a model's name says that it is, and what that one takes."""

import re
from typing import Any, Final

from zuebee.dialects.hub.canonical import Omissions, Reasoning

NEWEST: Final = (99, 0)
"""Of names that say no version, such as `gemini-flash-latest`."""
LEVELS_SINCE: Final = (3, 0)
THINKS_SINCE: Final = (2, 0)
LINKS_SINCE: Final = (2, 5)

BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 32768}
"""Tokens of reasoning for each effort, for models that know budgets only."""
DYNAMIC: Final = -1
_BOUNDS: Final = {"pro": (128, 32768), "flash-lite": (512, 24576), "flash": (1, 24576)}
"""What each size of the second generation takes, besides 0 for none, which `pro` does not take."""

_VERSION: Final = re.compile(r"gemini-(?:[a-z]+-)*?(\d{1,2})(?:\.(\d{1,2}))?(?![\d.])")
_MINIMAL: Final = re.compile(r"gemini-3(?:\.[0-6])?-flash")
"""Those that take the level `minimal`; the others have `low` as their least."""


def version_of(model: str) -> tuple[int, int] | None:
    """Its version; None for a model that is no Gemini (a Gemma)."""
    name = model.lower()
    if "gemini" not in name:
        return None
    found = _VERSION.search(name)
    return NEWEST if found is None else (int(found[1]), int(found[2] or 0))


def thinking_config(model: str, reasoning: Reasoning, notes: Omissions, field: str) -> dict[str, Any] | None:
    """`thinkingConfig` for that model. What it cannot do as it was asked is noted under `field`."""
    if reasoning in (Reasoning(), Reasoning(visible=False)):
        return None
    version = version_of(model)
    if version is None or version < THINKS_SINCE:
        notes.drop(field)
        return None
    off = reasoning.enabled is False or reasoning.effort == "none" or reasoning.budget_tokens == 0
    config: dict[str, Any] = {"includeThoughts": reasoning.visible and not off}
    if version >= LEVELS_SINCE:
        if level := _level(model, version, reasoning, off=off):
            config["thinkingLevel"] = level
        if off:
            notes.drop(field)  # the least it does
        return config
    budget = _budget(model, reasoning, off=off)
    if off and budget:
        notes.drop(field)
    config["thinkingBudget"] = budget
    return config


def _level(model: str, version: tuple[int, int], reasoning: Reasoning, *, off: bool) -> str:
    least = "minimal" if _MINIMAL.search(model.lower()) is not None else "low"
    if off:
        return least
    effort: str = reasoning.effort
    if not effort and reasoning.budget_tokens is not None and reasoning.budget_tokens > 0:
        tokens = reasoning.budget_tokens
        effort = "low" if tokens <= BUDGETS["low"] else "medium" if tokens <= BUDGETS["medium"] else "high"
    if effort == "minimal":
        return least
    if effort == "medium" and version == LEVELS_SINCE and "pro" in model:
        return "high"  # the first of them knows two levels
    return "high" if effort in ("xhigh", "max") else effort


def _budget(model: str, reasoning: Reasoning, *, off: bool) -> int:
    size = next((size for size in _BOUNDS if size in model.lower()), "flash")
    least, most = _BOUNDS[size]
    if off:
        return least if size == "pro" else 0
    if reasoning.budget_tokens is not None and reasoning.budget_tokens > 0:
        return min(max(reasoning.budget_tokens, least), most)
    return min(BUDGETS[reasoning.effort], most) if reasoning.effort else DYNAMIC
