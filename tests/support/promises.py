"""Promises in seconds that are kept in a fraction of them: half a busy core is enough, so nothing need run alone."""

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
