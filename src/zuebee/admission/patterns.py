"""PURE. What rules compare with: patterns in linear time, and sets of addresses.

Patterns are RE2: their time grows with the text alone, whatever a stranger sends.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import re2

from zuebee.kit.networks import parse_networks, within

MAX_KNOWN_ADDRESSES = 4096

Search: TypeAlias = Callable[[bytes], bool]


def searcher(pattern: str) -> Search:
    """Whether the pattern is somewhere in a text. Raises ValueError if it is not RE2."""
    search = _compile(pattern).search
    return lambda text: search(text) is not None


def whole_matcher(patterns: Sequence[str]) -> Search:
    """Whether one of the patterns matches the whole text. Raises ValueError if one is not RE2."""
    match = _compile("|".join(f"(?:{pattern})" for pattern in patterns)).fullmatch
    return lambda text: match(text) is not None


def address_set(texts: Sequence[str]) -> Callable[[str], bool]:
    """Whether an address is one of these, or in one of these ranges. What is no address is in none."""
    networks = parse_networks(texts)

    @lru_cache(MAX_KNOWN_ADDRESSES)
    def contains(text: str) -> bool:
        return within(text, networks)

    return contains


def _compile(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    try:
        # As bytes: header fields and bodies need not be UTF-8.
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not a pattern"
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
