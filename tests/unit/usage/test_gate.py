from pathlib import Path

import pytest

from tests.support.usage import make_event, make_store, put
from zuebee.kit.database import Database, DatabaseError
from zuebee.usage.gate import COUNT_EVERY_S, OutboxGate
from zuebee.usage.outbox import Outbox


def make_gate(tmp_path: Path, limit: int, *, refuse: bool = True) -> tuple[Database, OutboxGate]:
    store = make_store(f"sqlite:///{tmp_path}/store.db")
    return store, OutboxGate(Outbox(store), limit, refuse=refuse)


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


async def test_events_can_be_lost_instead_and_are_counted(tmp_path: Path) -> None:
    store, gate = make_gate(tmp_path, 10, refuse=False)
    gate.added(9)
    assert gate.room_for(2)
    gate.added(2)
    assert not gate.room_for(2)
    assert gate.refusal() is None
    assert list(gate.lost()) == [((), 2)]
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
