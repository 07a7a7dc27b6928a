"""PURE. What a limit granted and what was paid in, in one account: they are never taken for one another.

`limited` is what the limit granted, all else that was granted was paid in. While a limit is in force, `apart` is how
much of `used` was paid for before it came: what was used since is the limit's. PREPAID: there is no limit in force any
more, and what it left unused was taken back.
"""

from typing import Final

PREPAID: Final = -1


def apart_under_limit(used: int, limited: int, apart: int, *, is_first: bool) -> int:
    """`apart` once a limit is in force; `is_first`: the first one. A former one has paid `limited` of `used`."""
    return max(0, used - limited) if is_first or apart == PREPAID else apart


def unused_by_limit(granted: int, used: int, held: int, limited: int, apart: int) -> int:
    """What of a limit that is gone is to be taken back now. What is held may be the limit's: the rest of it follows."""
    if apart == PREPAID:
        return 0
    return max(0, min(limited - (used - apart) - held, granted - used - held))


def is_settled(used: int, held: int, limited: int, apart: int) -> bool:
    """Whether, after that, nothing of a limit that is gone can be left: it used all it granted, or nothing is held."""
    return held == 0 or limited <= used - apart
