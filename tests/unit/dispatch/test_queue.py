from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.contracts.inference import Priority
from zuebee.dispatch.priority_queue import CLASSES, PATIENCE, Load, PriorityEntry, PriorityQueue

MANY = 1_000_000


def waiter(number: int, priority: Priority = "normal", lane: str = "") -> PriorityEntry:
    return PriorityEntry(priority, number, lane)


def line_of(*waiters: PriorityEntry) -> PriorityQueue[PriorityEntry]:
    line: PriorityQueue[PriorityEntry] = PriorityQueue()
    for each in waiters:
        assert line.join(each, MANY) is None
    return line


def take(line: PriorityQueue[PriorityEntry], load: Load, lanes: str = "") -> PriorityEntry | None:
    """Whoever is next at a server that serves these lanes."""
    return line.take(load, lambda each: not lanes or str(each.lane) in lanes)


def numbers(line: PriorityQueue[PriorityEntry], load: Load, lanes: str = "") -> list[int]:
    taken = []
    while (each := take(line, load, lanes)) is not None:
        taken.append(each.number)
    return taken


def test_first_come_first_served_inside_a_class() -> None:
    line = line_of(*(waiter(n) for n in range(20)))
    assert numbers(line, Load()) == list(range(20))
    assert line.length == 0


@pytest.mark.requirement("A103")
def test_one_important_request_is_next_whoever_waits() -> None:
    line = line_of(*(waiter(n, "low") for n in range(10_000)), waiter(10_000, "high"))
    load = Load()
    assert [take(line, load).number for _ in range(3)] == [10_000, 0, 1]  # type: ignore[union-attr]


@pytest.mark.requirement("A103")
@pytest.mark.parametrize("waiting", [("high", "low"), ("normal", "low"), ("high", "normal", "low")])
def test_each_class_gets_a_tenth(waiting: tuple[Priority, ...]) -> None:
    number = iter(range(MANY))
    line = line_of(*(waiter(next(number), priority) for priority in waiting for _ in range(5)))
    load = Load()
    order: list[str] = []
    for _ in range(1000):
        taken = take(line, load)
        assert taken is not None
        order.append(taken.priority)
        line.join(waiter(next(number), taken.priority), MANY)
    assert all({*waiting} == {*order[at : at + 10]} for at in range(991)), "one of any ten"
    assert all(order.count(priority) <= 130 for priority in waiting[1:])


def test_without_patience_a_class_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control of the shares: they come from where we think they do."""
    monkeypatch.setitem(PATIENCE, "normal", MANY)
    monkeypatch.setitem(PATIENCE, "low", MANY)
    line = line_of(*(waiter(n, "low") for n in range(5)), *(waiter(n, "high") for n in range(5, 55)))
    assert numbers(line, Load())[:50] == list(range(5, 55))


PLAN = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from(CLASSES), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.sampled_from(["ab", "bc", "c"]), st.none()),
        st.tuples(st.just("leave"), st.integers(0, 50), st.none()),
    ),
    max_size=200,
)


@pytest.mark.requirement("A103")
@given(plan=PLAN, most=st.integers(0, 30))
def test_whatever_happens_the_line_is_bounded_fair_and_in_order(plan: list[tuple[str, str, str]], most: int) -> None:
    line: PriorityQueue[PriorityEntry] = PriorityQueue()
    here: list[PriorityEntry] = []
    loads = {lanes: Load() for lanes in ("ab", "bc", "c")}
    passed: Counter[tuple[str, Priority]] = Counter()
    for number, (what, which, lane) in enumerate(plan):
        if what == "join":
            new = waiter(number, which, lane)  # type: ignore[arg-type]
            here.append(new)
            if len(here) > most:
                out = max(here, key=lambda each: each.place)
                here.remove(out)
                assert line.join(new, most) is out
            else:
                assert line.join(new, most) is None
        elif what == "leave" and here:
            line.remove(here.pop(int(which) % len(here)))
        elif what == "take":
            able = [each for each in here if str(each.lane) in which]
            taken = take(line, loads[which], which)
            if taken is None:
                assert able == []
                continue
            here.remove(taken)
            assert taken.number == min(each.number for each in able if each.priority == taken.priority)
            classes = {each.priority for each in able}
            for priority in CLASSES:
                key = which, priority
                passed[key] = passed[key] + 1 if priority in classes and priority != taken.priority else 0
                assert passed[key] < 10, "one of any ten places"
        assert line.length == len(here) <= most
        assert all(line.depth(each) == sum(one.priority == each for one in here) for each in CLASSES)


def test_the_last_in_line_goes_when_it_is_full() -> None:
    first, second = waiter(1, "low"), waiter(2, "low")
    line = line_of(first, second)
    assert line.join(third := waiter(3, "low"), 2) is third
    assert line.join(waiter(4, "high"), 2) is second
    assert line.join(waiter(5, "normal"), 2) is first
    assert line.join(sixth := waiter(6, "normal"), 2) is sixth
    assert numbers(line, Load()) == [4, 5]
    assert line.join(seventh := waiter(7, "high"), 0) is seventh


def test_who_comes_again_takes_its_old_place() -> None:
    line = line_of(*(waiter(n) for n in (1, 5, 9)))
    line.join(waiter(3), MANY)
    line.join(waiter(0), MANY)
    assert numbers(line, Load()) == [0, 1, 3, 5, 9]


def test_who_is_not_there_cannot_leave() -> None:
    inside, stranger = waiter(1), waiter(1)
    line = line_of(inside)
    line.remove(stranger)
    line.remove(waiter(2))
    assert line.length == 1
    line.remove(inside)
    line.remove(inside)
    assert (line.length, line.depth("normal")) == (0, 0)


def test_a_server_passes_over_those_that_it_cannot_serve() -> None:
    line = line_of(waiter(1, "high", "x"), waiter(2, "low", "y"))
    assert numbers(line, Load(), "y") == [2]
    assert numbers(line, Load(), "z") == []


def test_a_load_is_free_below_its_limit() -> None:
    load = Load(2)
    assert load.free
    load.in_flight = 2
    assert not load.free
    load.limit = None
    assert load.free
