"""Who may be connected, and who goes first when there is no room."""

import math
import random
import weakref

import pytest

from tests.support.memory import alive
from zuebee.http.connections import LOOK_EVERY_S, MAX_HELD_BYTES, ConnectionTable, Crowd, Phase, name_of


class Guest:
    """A connection that is idle since a time, or busy."""

    def __init__(self, key: float, phase: Phase | None = None, held_bytes: int = 0) -> None:
        self.key = key
        self.closed = False
        self.held_bytes = held_bytes
        self.phase = phase
        self.asked = 0

    def idle_key(self) -> float:
        self.asked += 1
        return self.key

    def give_way(self) -> None:
        self.closed = True

    def drop_held(self) -> None:
        assert self.phase is not None
        self.phase.held_bytes -= self.held_bytes
        self.held_bytes = 0


def make(most: int = 3, of_address: int = 100, phase: Phase | None = None) -> ConnectionTable:
    return ConnectionTable(most, of_address, lambda address: not address.startswith("10."), phase or Phase())


def test_the_oldest_idle_one_gives_way_and_a_busy_one_never() -> None:
    table = make()
    busy, old, young = Guest(math.inf), Guest(1.0), Guest(2.0)
    for n, guest in enumerate((busy, young, old)):
        assert table.enter(guest, f"1.1.1.{n}", 10)
    assert table.enter(Guest(math.inf), "1.1.1.9", 10)
    assert (busy.closed, old.closed, young.closed) == (False, True, False)
    assert table.enter(Guest(math.inf), "1.1.1.9", 10)
    assert young.closed
    assert not table.enter(Guest(0.0), "1.1.1.9", 11)
    assert (table.made_room, table.turned_away, len(table)) == (2, 1, 3)


def test_whoever_is_no_longer_idle_is_passed_over() -> None:
    table = make()
    first, second, third = Guest(1.0), Guest(2.0), Guest(3.0)
    for guest in (first, second, third):
        table.enter(guest, "", 10)
    assert table.enter(Guest(math.inf), "", 10)
    second.key = math.inf
    assert table.enter(Guest(math.inf), "", 10)
    assert (first.closed, second.closed, third.closed) == (True, False, True)


def test_an_address_at_its_bound_makes_room_among_its_own() -> None:
    table = make(100, 2)
    other, own = Guest(0.0), [Guest(5.0), Guest(math.inf)]
    table.enter(other, "1.1.1.1", 10)
    for guest in own:
        table.enter(guest, "2.2.2.2", 10)
    assert table.enter(Guest(math.inf), "2.2.2.2", 10)
    assert (other.closed, own[0].closed) == (False, True)
    assert not table.enter(Guest(math.inf), "2.2.2.2", 11)
    table.leave(own[1], "2.2.2.2")
    assert table.enter(Guest(math.inf), "2.2.2.2", 11)


def test_a_proxy_is_bounded_by_the_table_only() -> None:
    table = make(50, 2)
    assert all(table.enter(Guest(math.inf), "10.0.0.1", 1) for _ in range(50))
    assert not table.enter(Guest(math.inf), "10.0.0.1", 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.3.4", "1.2.3.5", False),
        ("::ffff:1.2.3.4", "1.2.3.4", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("no address", "no address", True),
    ],
)
def test_an_address_of_ipv6_counts_with_its_neighbors(one: str, other: str, same: bool) -> None:
    assert (name_of(one) == name_of(other)) is same


def test_addresses_without_connections_are_forgotten() -> None:
    before, table = alive(Crowd), make(3, 1)
    came = []
    for n in range(500):
        came.append((Guest(1.0), f"2.2.{n // 250}.{n % 250}"))
        table.enter(*came[-1], n)
        if n % 3 == 0:
            table.leave(*came.pop())
    for guest, address in came:  # those that gave way to others, too
        table.leave(guest, address)
    assert (len(table), alive(Crowd)) == (0, before + 1), "the crowd of all, and none of an address"


def test_a_flood_costs_little_for_each_who_comes() -> None:
    table = make(1000)
    guests = [Guest(float(n)) for n in range(1000)]
    for guest in guests:
        table.enter(guest, "1.1.1.1" if guest.key < 100 else "", 0)
    now_s, asked = 1.0, 0
    late = []
    for n in range(5000):
        now_s += 0.0001
        late.append(Guest(1000.0 + n))
        table.enter(late[-1], "", now_s)
    asked = sum(guest.asked for guest in guests + late)
    looks = 0.0001 * 5000 / (LOOK_EVERY_S * 1000) + 2
    assert asked < 1000 * looks + 2 * 5000
    assert len(table) <= 1000


def test_who_is_gone_is_not_kept_in_memory() -> None:
    table = make(1000)
    gone = []
    for n in range(3000):
        guest = Guest(float(n) if n % 2 else math.inf)
        gone.append(weakref.ref(guest))
        table.enter(guest, "1.1.1.1", n / 1000)
    del guest
    for one in table.guests:
        table.leave(one, "1.1.1.1")
    del one
    assert sum(ref() is not None for ref in gone) <= 64 * 4


def test_random_comings_and_goings_keep_every_bound() -> None:
    choose = random.Random(7)
    table, now_s = make(40, 15), 0.0
    inside: dict[Guest, str] = {}
    for _ in range(5000):
        now_s += choose.random() / 10
        if inside and choose.random() < 0.3:
            guest = choose.choice(list(inside))
            if choose.random() < 0.5:
                guest.key = choose.choice([math.inf, now_s])
                continue
            table.leave(guest, inside.pop(guest))
            continue
        guest, address = Guest(choose.choice([math.inf, now_s])), choose.choice(["1.1.1.1", "2.2.2.2", "10.0.0.1"])
        before = dict(inside)
        if table.enter(guest, address, now_s):
            inside[guest] = address
        for gone in [one for one in inside if one.closed]:
            assert before[gone]
            assert gone.key != math.inf
            table.leave(gone, inside.pop(gone))
        assert set(table.guests) == set(inside)
        assert len(inside) <= 40
        assert all(list(inside.values()).count(own) <= 15 for own in ("1.1.1.1", "2.2.2.2"))


def test_too_much_that_is_held_is_dropped_by_those_who_hold_most() -> None:
    phase = Phase()
    table = make(100, phase=phase)
    guests = [Guest(math.inf, phase, n * 100_000) for n in range(40)]
    for guest in guests:
        table.enter(guest, "", 0)
        phase.held_bytes += guest.held_bytes
    assert phase.held_bytes > MAX_HELD_BYTES
    table.relieve()
    assert phase.held_bytes <= MAX_HELD_BYTES // 2
    assert all(guest.held_bytes for guest in guests[1:10])
