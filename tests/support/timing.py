"""Whether the time that a function takes tells what it was given (after dudect: Reparaz, Balasch, Verbauwhede, 2017).

Two classes of inputs are timed in turns that chance orders, so that what slows the machine down meets both alike. For
each sample an input of either class is made and one of the two is timed: nothing but the value differs, neither its
place in memory nor what was done just before. A sample is the smallest of a few calls with one input, and the slowest
tenth of a batch is left out (the same bound for both classes): what remains is the function and not the machine. The
difference of the two means of a batch is one figure; t over these figures is judged against LIMIT: neighbours in time
are alike, whole batches are not. What is significant is a leak from SMALLEST_NS on: below it, the figures show where
objects lie in memory. There is no second try: all numbers are fixed beforehand.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")

LIMIT = 4.5
"""|t| above it is a difference that chance makes once in a hundred thousand times."""
SMALLEST_NS = 3.0
"""A comparison that stops early differs by a few nanoseconds for each byte, in C, and by fifty in Python."""
CALLS = 3
KEPT = 0.9
BATCHES = 100


class Leak(NamedTuple):
    """`t` of the whole, and the means of both classes in nanoseconds."""

    t: float
    one_ns: float
    other_ns: float

    @property
    def seen(self) -> bool:
        """Whether the times tell the classes apart."""
        return abs(self.t) >= LIMIT and abs(self.one_ns - self.other_ns) >= SMALLEST_NS


def leak(function: Callable[[T], object], makers: tuple[Callable[[int], T], Callable[[int], T]], samples: int) -> Leak:
    """How the times of `function` differ for inputs of two makers (by a number); `samples` are taken in all."""
    figures: tuple[list[float], list[float]] = ([], [])
    for seed in range(BATCHES):
        ones, others = _batch(function, makers, samples // BATCHES, seed)
        figures[0].append(statistics.fmean(ones))
        figures[1].append(statistics.fmean(others))
    apart = [one - other for one, other in zip(*figures, strict=True)]
    t = statistics.fmean(apart) / (statistics.stdev(apart) / math.sqrt(BATCHES) or 1e-300)
    return Leak(t, statistics.median(figures[0]), statistics.median(figures[1]))


def _batch(
    function: Callable[[T], object], makers: tuple[Callable[[int], T], Callable[[int], T]], samples: int, seed: int
) -> tuple[list[int], list[int]]:
    order = [index % 2 for index in range(samples)]
    random.Random(seed).shuffle(order)
    times: tuple[list[int], list[int]] = ([], [])
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index, which in enumerate(order):
            first = index // 2 % 2
            made = (makers[first](index), makers[1 - first](index))
            given = made[which ^ first]
            best = 1 << 62
            for _ in range(CALLS):
                started = clock()
                function(given)
                best = min(best, clock() - started)
            times[which].append(best)
    finally:
        if collecting:
            gc.enable()
    bound = sorted(times[0] + times[1])[int(samples * KEPT)]
    return [one for one in times[0] if one <= bound], [one for one in times[1] if one <= bound]
