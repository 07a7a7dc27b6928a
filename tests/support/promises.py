"""Promises in seconds that a busy machine keeps as well, so nothing need run alone.

Either they are kept in a fraction of the time, or they say what must not come earlier: no load makes a wait shorter.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(bound_s: float, what: str) -> Iterator[None]:
    """What is done in the block must take less than `bound_s`, and usually takes half of that at most."""
    begun_s = time.monotonic()
    yield
    took_s = time.monotonic() - begun_s
    assert took_s < bound_s, f"{what} took {took_s:.1f} s, and {bound_s} s are promised"


@contextmanager
def at_least(bound_s: float, what: str) -> Iterator[None]:
    """What is done in the block must take `bound_s` or more."""
    begun_s = time.monotonic()
    yield
    took_s = time.monotonic() - begun_s
    assert took_s >= bound_s, f"{what} took {took_s:.3f} s, and not {bound_s} s"
