"""The word that somebody meant who wrote another one. PURE."""

import difflib
from collections.abc import Sequence

MAX_WORD = 100
"""Longer ones were meant as something else, and would take long to compare."""


def nearest(given: str, known: Sequence[str]) -> str:
    """The one of the known words that is nearest to what was given; empty if none is near."""
    if len(given) > MAX_WORD:
        return ""
    found = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.6)
    return found[0] if found else ""


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """A question to put behind a message; empty if nothing is near."""
    word = nearest(given, known)
    return f"; did you mean `{word}`?" if word else ""
