"""PURE. Patterns of names, such as those of models: a `*` at the end stands for any rest, elsewhere for itself."""

from collections.abc import Sequence


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
    for pattern in patterns:  # a loop is faster than `any`, compiled or not
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return True
    return not patterns
