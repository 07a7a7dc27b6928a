"""Promises in seconds that a busy machine keeps as well, so nothing need run alone.

Either they are kept in a fraction of the time, or they say what must not come earlier: no load makes a wait shorter. Or
they say how long a wait still is, which is judged by the time that has passed.
"""

import time
from collections.abc import Callable, Iterator
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


def stopwatch() -> Callable[[], float]:
    """Gives the seconds since this call: for an answer that says how long from now something lasts."""
    begun_s = time.monotonic()
    return lambda: time.monotonic() - begun_s
