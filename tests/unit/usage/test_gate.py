import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes import VirtualTime
from tests.support.usage import make_event, make_store, put
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.usage.gate import COUNT_AT_LEAST_EVERY_S, COUNT_EVERY_S, OutboxGate
from zuebee.usage.outbox import Outbox, Result, Standing


def make_gate(tmp_path: Path, limit: int, *, refuse: bool = True) -> tuple[Database, OutboxGate]:
    store, _, gate = make_parts(tmp_path, limit, refuse=refuse)
    return store, gate


def make_parts(tmp_path: Path, limit: int, *, refuse: bool = True) -> tuple[Database, Outbox, OutboxGate]:
    store = make_store(f"sqlite:///{tmp_path}/store.db")
    box = Outbox(store)
    return store, box, OutboxGate(box, limit, refuse=refuse)


async def test_a_full_outbox_refuses(tmp_path: Path) -> None:
    store, gate = make_gate(tmp_path, 10)
    put(store, "a", [make_event(f"r{n}") for n in range(7)], at_s=5.0)
    assert await gate.count() >= COUNT_EVERY_S
    assert gate.refusal() is None
    assert list(gate.alarm()) == [((), 0.0)]
    put(store, "b", [make_event("r")], at_s=5.0)
    await gate.count()
    assert list(gate.alarm()) == [((), 1.0)]
    assert list(gate.fill()) == [((), 0.8)]
    assert gate.refusal() is None
    gate.added(2)
    refusal = gate.refusal()
    assert refusal is not None
    assert (refusal.status, refusal.code) == (503, "usage_outbox_full")
    assert list(gate.sizes()) == [(("a",), 7), (("b",), 1)]
    await gate.count()
    assert gate.refusal() is None
    store.close()


async def test_between_two_counts_it_knows_what_came_and_went(tmp_path: Path) -> None:
    store, box, gate = make_parts(tmp_path, 10)
    put(store, "a", [make_event(f"r{n}") for n in range(9)], at_s=5.0)
    await gate.count()
    put(store, "a", [make_event("r9")], at_s=5.0)
    gate.added(1)
    assert gate.refusal() is not None
    taken = await box.take("a", 5.0, 4, 60.0)
    assert gate.refusal() is not None, "taken is not delivered"
    await box.finish("a", Result(done=[entry.row for entry in taken]), 5.0)
    assert gate.refusal() is None
    assert list(gate.fill()) == [((), 0.6)]
    await gate.count()
    assert list(gate.fill()) == [((), 0.6)]
    store.close()


async def test_what_comes_while_it_is_counted_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = make_gate(tmp_path, 10)
    put(store, "a", [make_event(f"r{n}") for n in range(9)], at_s=5.0)
    count = Outbox.standings

    async def slowly(self: Outbox) -> list[Standing]:
        found = await count(self)
        gate.added(1)  # after it was counted, before that is known
        return found

    monkeypatch.setattr(Outbox, "standings", slowly)
    await gate.count()
    assert gate.refusal() is not None
    store.close()


async def test_a_long_outbox_is_counted_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, virtual_time: VirtualTime
) -> None:
    store, box, gate = make_parts(tmp_path, 10)

    def finds(rows: int, seconds: float) -> Callable[[Outbox], Coroutine[Any, Any, list[Standing]]]:
        async def count(self: Outbox) -> list[Standing]:
            virtual_time.advance(seconds)
            return [Standing("a", rows, 0, 1.0)]

        return count

    for rows, seconds, wait_s in (
        (0, 0.001, COUNT_EVERY_S), (200_000, 0.04, 20.0), (9_000_000, 1.8, COUNT_AT_LEAST_EVERY_S), (5, 0.5, 25.0),
    ):  # fmt: skip
        monkeypatch.setattr(Outbox, "standings", finds(rows, seconds))
        assert await gate.count() == pytest.approx(wait_s)
    box.shared = True  # what other processes add is known from counts alone
    monkeypatch.setattr(Outbox, "standings", finds(9_000_000, 1.8))
    assert await gate.count() == pytest.approx(90.0)
    store.close()


async def test_events_can_be_lost_instead_and_are_counted(tmp_path: Path) -> None:
    store, gate = make_gate(tmp_path, 10, refuse=False)
    gate.added(9)
    assert gate.room_for(2, billed=True)
    gate.added(2)
    assert not gate.room_for(2, billed=True)
    assert gate.refusal() is None
    assert list(gate.lost()) == [((), 2)]
    store.close()


async def test_what_was_billed_is_never_lost_where_requests_are_refused(tmp_path: Path) -> None:
    store, gate = make_gate(tmp_path, 10)
    gate.added(10)
    assert gate.room_for(1, billed=True)
    assert list(gate.lost()) == [((), 0)]
    assert not gate.room_for(1, billed=False)
    assert list(gate.lost()) == [((), 1)]
    store.close()


async def test_what_cannot_be_counted_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = make_gate(tmp_path, 10)
    gate.added(10)

    async def fail(self: Outbox) -> None:
        raise DatabaseError("no")

    monkeypatch.setattr(Outbox, "standings", fail)
    await gate.count()
    assert gate.refusal() is not None
    store.close()


async def test_before_the_first_count_nothing_is_known_and_later_how_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, box, gate = make_parts(tmp_path, 10)
    put(store, "a", [make_event(f"r{n}") for n in range(9)], at_s=5.0)

    async def fail() -> list[Standing]:
        raise DatabaseError("away")

    with monkeypatch.context() as away:
        away.setattr(box, "standings", fail)
        for _ in range(2):
            await gate.count()
    for series in (gate.fill(), gate.alarm(), gate.counted_at()):
        [(_, unknown)] = series
        assert math.isnan(unknown)
    assert list(gate.failures()) == [((), 2)]
    assert caplog.text.count("the outbox cannot be counted") == 1
    assert gate.refusal() is None, "what is not known refuses nobody"
    await gate.count()
    assert list(gate.alarm()) == [((), 1.0)]
    [(_, counted_at_s)] = gate.counted_at()
    assert counted_at_s == pytest.approx(clock.wall_s(), abs=5)
    monkeypatch.setattr(box, "standings", fail)
    await gate.count()
    assert list(gate.fill()) == [((), 0.9)]
    assert list(gate.counted_at()) == [((), counted_at_s)]
    store.close()
