"""PURE. Patterns of names, such as those of models: a `*` at the end stands for any rest, elsewhere for itself."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Patterns: TypeAlias = tuple[str, ...]
"""What may be used. Empty: everything."""


def is_open(pattern: str) -> bool:
    """Whether a pattern stands for more than one name."""
    return pattern.endswith("*")


def stem_of(pattern: str) -> str:
    """What a name that fits begins with; of a pattern that is not open, the name itself."""
    return pattern[:-1] if pattern.endswith("*") else pattern


def is_clear(pattern: str) -> bool:
    """Whether a `*` stands only where it means something."""
    return "*" not in pattern[:-1]


def fits(name: str, pattern: str) -> bool:
    """Whether a name is one of those that a pattern stands for."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def allowed(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns; where there are none, all names do."""
    return not patterns or any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in patterns)


def narrow(all_patterns: Iterable[Patterns]) -> Patterns | None:
    """What all of them allow; None: nothing."""
    left: Patterns = ()
    for patterns in all_patterns:
        if not patterns or not left:
            left = left or patterns
            continue
        left = _both(left, patterns)
        if not left:
            return None
    return left


def _both(some: Patterns, others: Patterns) -> Patterns:
    found: dict[str, None] = {}
    for one in some:
        for other in others:
            both = _meet(one, other)
            if both is not None:
                found[both] = None
    return tuple(found)


def _meet(one: str, other: str) -> str | None:
    """The pattern of the names that fit both; None if none does."""
    if not is_open(one):
        return one if fits(one, other) else None
    if not is_open(other):
        return other if fits(other, one) else None
    stem, other_stem = stem_of(one), stem_of(other)
    if stem.startswith(other_stem):
        return one
    return other if other_stem.startswith(stem) else None
