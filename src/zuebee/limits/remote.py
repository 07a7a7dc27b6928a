"""PURE. What is said to Redis about limits, and what it answers (take.lua)."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from zuebee.contracts.admission import Limit
from zuebee.limits.buckets import LEASE_S, SLOTS
from zuebee.limits.state import State

MAX_SUBJECT = 100
_TAKE, _GIVE_BACK, _RENEW = 1, 2, 3
_WINDOW, _BUCKET, _LEASES = 1, 2, 3
_ENCODER = msgspec.msgpack.Encoder()


class Verdict:
    """What became of one request: the index of the limit that refused it (-1: none), `wait_s` until that fits, and
    of each limit how much is counted and since when its counter lives.
    """

    __slots__ = ("_figures", "at_us", "refused_by", "wait_s")

    def __init__(self, at_us: int, figures: Sequence[int]) -> None:
        self.at_us = at_us
        self.refused_by = figures[0] - 1
        self.wait_s = figures[1] / 1e6
        self._figures = figures

    def birth_us(self, index: int) -> int:
        """Since when the counter of a limit lives: one that was lost and begun anew knows nothing of this request."""
        return self._figures[3 + 2 * index]

    def states(self, limits: Sequence[Limit]) -> Iterator[State]:
        """How the limits stood right afterwards. A window is told as late as what was counted by then can be gone."""
        for index, limit in enumerate(limits):
            if limit.kind != "concurrent":
                used = self._figures[2 + 2 * index]
                most = limit.burst or limit.amount
                reset_s = used * limit.window_s / limit.amount if limit.burst else self._end_s(limit.window_s)
                yield State(limit.kind, most, max(most - used, 0), reset_s if used else 0.0)

    def _end_s(self, window_s: int) -> float:
        """Seconds until the slot of this moment is forgotten."""
        slot_s, at_s = window_s / SLOTS, self.at_us / 1e6
        return (int(at_s / slot_s) + 1 + SLOTS) * slot_s - at_s


class Batch:
    """What one call of the script is told. `keys`: the counters that it touches."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.keys: list[str] = []
        self._indexes: dict[str, int] = {}
        self._specs: list[tuple[int, int]] = []
        self._operations: list[tuple[Any, ...]] = []

    def __bool__(self) -> bool:
        return bool(self._operations)

    def take(self, lease: str, limits: Sequence[Limit], tokens: int) -> None:
        """A place under all the limits, or none; it gets a verdict."""
        rules = [(self._key(each), each.amount, each.burst, int(each.kind == "tokens")) for each in limits]
        self._operations.append((_TAKE, lease, tokens, rules))

    def give_back(self, lease: str, limits: Sequence[Limit], tokens: int, used: int, verdict: Verdict | None) -> None:
        """A place taken for so many `tokens`, of which so many were `used` (-1: leave what was charged)."""
        corrections = []
        if verdict is not None and used >= 0:
            for index, limit in enumerate(limits):
                delta = used - min(tokens, limit.burst or limit.amount)
                if limit.kind == "tokens" and delta:
                    birth = verdict.birth_us(index)
                    corrections.append((self._key(limit), limit.amount, delta, verdict.at_us, birth))
        leases = self._leases(limits)
        if leases or corrections:
            self._operations.append((_GIVE_BACK, lease, leases, corrections))

    def renew(self, lease: str, limits: Sequence[Limit]) -> None:
        """A place is still held."""
        self._operations.append((_RENEW, lease, self._leases(limits)))

    def payload(self) -> bytes:
        """The argument of the script."""
        return _ENCODER.encode((self._specs, self._operations, round(LEASE_S * 1e6)))

    def verdicts(self, answer: Any) -> list[Verdict | None]:
        """The verdicts of those who take, in their order."""
        return [Verdict(answer[0], figures) for figures in answer[1:]]

    def _leases(self, limits: Sequence[Limit]) -> list[int]:
        return [self._key(limit) for limit in limits if limit.kind == "concurrent"]

    def _key(self, limit: Limit) -> int:
        """Its place among the keys, counted from 1 as Lua does."""
        subject = limit.subject
        if len(subject) > MAX_SUBJECT:
            subject = "sha256:" + hashlib.sha256(subject.encode()).hexdigest()
        form = _LEASES if limit.kind == "concurrent" else _BUCKET if limit.burst else _WINDOW
        key = f"{self._prefix}{limit.kind}:{limit.window_s}{'b' if form == _BUCKET else ''}:{subject}"
        index = self._indexes.get(key)
        if index is None:
            self.keys.append(key)
            self._indexes[key] = index = len(self.keys)
            self._specs.append((form, limit.window_s * 1_000_000))
        return index


def share_of(limit: Limit, processes: int) -> Limit | None:
    """What one of so many processes may let through by itself while Redis is down: at least one; None: anything."""
    if limit.when_down == "open":
        return None
    if processes == 1:
        return limit
    return replace(
        limit,
        amount=max(1, limit.amount // processes),
        burst=max(1, limit.burst // processes) if limit.burst else 0,
    )
