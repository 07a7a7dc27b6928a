"""PURE. Who is next: a bounded line of waiting jobs in three classes.

The higher class goes first, but of any ten places that a server hands out, each class with somebody waiting for that
server gets one. Inside a class it is the order of arrival. When the line is full, whoever is last in it must go: the
newest of the lowest class, which may be the newcomer.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from zuebee.contracts.inference import Priority

CLASSES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
"""Highest first."""

PATIENCE: Final[dict[Priority, int]] = {"normal": 8, "low": 9}
"""So often in a row a class is passed over, then it is due. Two classes can be due at the same time, and the second
one then waits for one place more: hence 8 and 9 for one place in ten."""

_RANK: Final = {priority: rank for rank, priority in enumerate(CLASSES)}


class Load:
    """What one server carries: requests in flight, and how many may be (`limit` None: any number)."""

    __slots__ = ("in_flight", "limit", "passed_over")

    def __init__(self, limit: int | None = None) -> None:
        self.in_flight = 0
        self.limit = limit
        self.passed_over: dict[Priority, int] = dict.fromkeys(CLASSES, 0)

    @property
    def free(self) -> bool:
        """Whether there is a place for one more."""
        return self.limit is None or self.in_flight < self.limit


class PriorityEntry:
    """One job in the line. `number` is its arrival; those of one `lane` can always use the same servers."""

    __slots__ = ("lane", "number", "priority")

    def __init__(self, priority: Priority, number: int, lane: Hashable) -> None:
        self.priority = priority
        self.number = number
        self.lane = lane

    @property
    def place(self) -> tuple[int, int]:
        """Smaller is further ahead."""
        return _RANK[self.priority], self.number


W = TypeVar("W", bound=PriorityEntry)


class PriorityQueue(Generic[W]):
    """The line. It never holds more than `join` allows."""

    def __init__(self) -> None:
        # Not plain dicts: those become slow to begin when entries are taken from their front over and over.
        self._lanes: dict[Priority, dict[Hashable, OrderedDict[int, W]]] = {priority: {} for priority in CLASSES}
        self._depths: dict[Priority, int] = dict.fromkeys(CLASSES, 0)
        self.length = 0

    def depth(self, priority: Priority) -> int:
        """How many wait in a class."""
        return self._depths[priority]

    def join(self, entry: W, max_length: int) -> W | None:
        """Let one more in. Answers with whom there is no room for: the last in the line, or the newcomer itself."""
        victim = None
        if self.length >= max_length:
            victim = self._last()
            if victim is None or victim.place <= entry.place:
                return entry
            self.remove(victim)
        lanes = self._lanes[entry.priority]
        lane = lanes.setdefault(entry.lane, OrderedDict())
        newest = next(reversed(lane), entry.number)
        lane[entry.number] = entry
        if entry.number < newest:
            # It has been here before, and its first server failed: it takes its old place again.
            lanes[entry.lane] = OrderedDict(sorted(lane.items()))
        self._depths[entry.priority] += 1
        self.length += 1
        return victim

    def remove(self, entry: W) -> None:
        """It does not wait any longer. Those that are not in the line are none of our business."""
        lanes = self._lanes[entry.priority]
        lane = lanes.get(entry.lane)
        if lane is None or lane.get(entry.number) is not entry:
            return
        del lane[entry.number]
        if not lane:
            del lanes[entry.lane]
        self._depths[entry.priority] -= 1
        self.length -= 1

    def take(self, load: Load, usable: Callable[[W], bool]) -> W | None:
        """Take out who gets the next place of a server. `usable`: whether that server is one for this waiter."""
        heads = {}
        for priority in CLASSES:
            fitting = [head for lane in self._lanes[priority].values() if usable(head := next(iter(lane.values())))]
            if fitting:
                heads[priority] = min(fitting, key=lambda entry: entry.number)
        if not heads:
            return None
        passed = load.passed_over
        due = [priority for priority, most in PATIENCE.items() if priority in heads and passed[priority] >= most]
        chosen = max(due, key=passed.__getitem__) if due else next(iter(heads))
        for priority in CLASSES:
            passed[priority] = passed[priority] + 1 if priority in heads and priority != chosen else 0
        self.remove(heads[chosen])
        return heads[chosen]

    def _last(self) -> W | None:
        for priority in reversed(CLASSES):
            lanes = self._lanes[priority].values()
            if lanes:
                return max((next(reversed(lane.values())) for lane in lanes), key=lambda entry: entry.number)
        return None
