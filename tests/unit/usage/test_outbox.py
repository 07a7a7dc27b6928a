from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.usage import make_event, make_store, outbox_rows, payload, put, put_whole
from zuebee.lib.sql.database import Database
from zuebee.usage import outbox
from zuebee.usage.outbox import PARKED_AT_S, Outbox, Result, Standing


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = make_store(f"sqlite:///{tmp_path}/store.db")
    yield database
    database.close()


def ids(entries: list[outbox.OutboxEntry]) -> list[str]:
    return [entry.event_id for entry in entries]


async def test_each_reporter_has_its_own_place(store: Database) -> None:
    for name in ("a", "b"):
        put(store, name, [make_event(f"req_{n}") for n in range(3)], at_s=10.0)
    box = Outbox(store)
    taken = await box.take("a", 10.0, 2, 60.0)
    assert ids(taken) == ["req_0", "req_1"]
    await box.finish("a", Result(done=[entry.row for entry in taken]), 10.0)
    assert ids(await box.take("a", 10.0, 10, 60.0)) == ["req_2"]
    assert len(await box.take("b", 10.0, 10, 60.0)) == 3


async def test_an_event_is_made_of_its_record_when_it_is_taken(store: Database) -> None:
    strange = make_event("two", model="a\0b\u2028\U0001f41d", tags=("x", "y"), is_stream=True, first_token_ms=12)
    put(store, "a", [make_event("one"), strange])
    taken = await Outbox(store).take("a", 1.0, 10, 60.0)
    assert [entry.payload for entry in taken] == [payload(make_event("one")), payload(strange)]


async def test_an_event_that_an_earlier_version_wrote_whole_is_taken_as_it_is(store: Database) -> None:
    put_whole(store, "a", [make_event("one", model="older")])
    put(store, "a", [make_event("two")])
    taken = await Outbox(store).take("a", 1.0, 10, 60.0)
    assert [entry.payload for entry in taken] == [payload(make_event("one", model="older")), payload(make_event("two"))]


@pytest.mark.parametrize(
    "change", ["DELETE FROM usage_records WHERE id = 1", "UPDATE usage_records SET request_id = 'other' WHERE id = 1"]
)
async def test_an_event_without_its_record_is_parked_and_the_others_go_on(
    store: Database, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "a", [make_event("one"), make_event("two")])
    store.call(lambda connection: connection.exec_driver_sql(change))
    box = Outbox(store)
    assert ids(await box.take("a", 1.0, 10, 60.0)) == ["two"]
    assert [(each.waiting, each.parked) for each in await box.standings()] == [(1, 1)]
    assert "a: 1 events are parked, for their usage records were removed" in caplog.text


async def test_what_came_late_is_told_under_an_id_of_its_own(store: Database) -> None:
    put(store, "a", [make_event("one")])
    late = "UPDATE usage_outbox SET event_id = 'one/late'"
    store.call(lambda connection: connection.exec_driver_sql(late))
    (taken,) = await Outbox(store).take("a", 1.0, 10, 60.0)
    assert (taken.event_id, taken.payload) == ("one/late", payload(make_event("one")))


async def test_what_is_put_off_is_not_due(store: Database) -> None:
    put(store, "a", [make_event("one"), make_event("two")], at_s=10.0)
    box = Outbox(store)
    first, second = await box.take("a", 10.0, 10, 60.0)
    await box.finish("a", Result(put_off=[(first.row, 15.0, 1), (second.row, PARKED_AT_S, 8)]), 10.0)
    assert await box.take("a", 14.0, 10, 60.0) == []
    (again,) = await box.take("a", 15.0, 10, 60.0)
    assert (again.event_id, again.rounds) == ("one", 1)
    assert await box.is_parked(second.row)
    assert not await box.is_parked(first.row)
    assert not await box.is_parked((second.id, "other"))


async def test_when_a_receiver_is_back_all_is_due(store: Database) -> None:
    put(store, "a", [make_event("one"), make_event("two"), make_event("done")], at_s=10.0)
    put(store, "b", [make_event("one")], at_s=10.0)
    box = Outbox(store)
    one, two, done = await box.take("a", 10.0, 10, 60.0)
    (other,) = await box.take("b", 10.0, 10, 60.0)
    await box.finish("b", Result(put_off=[(other.row, 500.0, 3)]), 10.0)
    put_off = [(one.row, 500.0, 3), (two.row, PARKED_AT_S, 8)]
    await box.finish("a", Result(done=[done.row], put_off=put_off, revive=True), 20.0)
    assert sorted(ids(await box.take("a", 20.0, 10, 60.0))) == ["one", "two"]
    assert await box.take("b", 20.0, 10, 60.0) == []


async def test_how_reporters_stand(store: Database) -> None:
    put(store, "a", [make_event("one")], at_s=10.0)
    put(store, "a", [make_event("two")], at_s=20.0)
    put(store, "b", [make_event("one")], at_s=30.0)
    box = Outbox(store)
    assert await box.standings() == [Standing("a", 2, 0, 10.0), Standing("b", 1, 0, 30.0)]
    (first, _) = await box.take("a", 20.0, 10, 60.0)
    await box.finish("a", Result(put_off=[(first.row, PARKED_AT_S, 8)]), 20.0)
    assert await box.standings() == [Standing("a", 1, 1, 20.0), Standing("b", 1, 0, 30.0)]


async def test_an_operator_may_try_again_and_may_discard(store: Database) -> None:
    put(store, "a", [make_event("one"), make_event("two")], at_s=10.0)
    box = Outbox(store)
    one, two = await box.take("a", 10.0, 10, 60.0)
    await box.finish("a", Result(put_off=[(one.row, 900.0, 3), (two.row, PARKED_AT_S, 8)]), 10.0)
    assert store.call(lambda connection: outbox.retry(connection, "a", 30.0)) == 1
    rows = outbox_rows(store)
    assert [(row["due_at_s"], row["attempts"]) for row in rows] == [(30.0, 3), (30.0, 0)]
    assert store.call(lambda connection: outbox.discard(connection, "a")) == 2
    assert outbox_rows(store) == []


async def test_many_rows_are_removed_at_once(store: Database) -> None:
    put(store, "a", [make_event(f"req_{n}") for n in range(1200)])
    box = Outbox(store)
    taken = await box.take("a", 1.0, 1200, 60.0)
    await box.finish("a", Result(done=[entry.row for entry in taken[:-1]]), 1.0)
    assert [row["event_id"] for row in outbox_rows(store)] == ["req_1199"]
    await box.finish("a", Result(done=[entry.row for entry in taken]), 1.0)
    assert box.removed == 1200, "each counts once"
