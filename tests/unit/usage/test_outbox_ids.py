"""Whatever becomes of a commit, of the process and of what an operator removes: no new event goes undelivered."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import delete

from tests.support.usage import make_event, make_store, outbox_rows, put
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.schema.tables import usage_outbox
from zuebee.usage import outbox
from zuebee.usage.outbox import Delivered, Failed, Outbox, OutboxEntry, Outcome, Result
from zuebee.usage.service import Reporter

ROUNDS = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = make_store(f"sqlite:///{tmp_path}/store.db")
    yield database
    database.close()


class Unsure(Outbox):
    """Some of its commits fail, and some of those that fail were made all the same."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        super().__init__(database)
        self._chance = chance

    async def finish(self, reporter: str, result: Result, now_s: float) -> None:
        fate = self._chance.random()
        if fate < 0.25:
            raise DatabaseError("before")
        await super().finish(reporter, result, now_s)
        if fate < 0.6:
            raise DatabaseError("no answer in time")


class Sink:
    at_once = 4
    round_s = 1.0

    def __init__(self, chance: random.Random, got: set[str]) -> None:
        self._chance = chance
        self._got = got

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        if self._chance.random() < 0.1:
            return [Failed("no")]
        self._got.update(entry.event_id for entry in entries)
        return [Delivered()]

    async def aclose(self) -> None:
        pass


class ById(Outbox):
    """Breaks it: what has the id of what was delivered is taken for that."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._store = database

    async def finish(self, reporter: str, result: Result, now_s: float) -> None:
        ids = [row for row, _ in result.done]
        await self._store.run(
            lambda connection: connection.execute(delete(usage_outbox).where(usage_outbox.c.id.in_(ids)))
        )


class UnsureById(Unsure, ById):
    """Both."""


async def undelivered(store: Database, seed: int, kind: type[Unsure] = Unsure) -> set[str]:
    """The events that were neither delivered nor discarded, and are gone."""
    chance = random.Random(seed)
    got: set[str] = set()
    discarded: set[str] = set()
    written: set[str] = set()
    reporters = {name: Reporter(name, "webhook", Sink(chance, got), kind(store, chance)) for name in "ab"}
    for turn in range(ROUNDS):
        name = chance.choice("ab")
        if chance.random() < 0.7:
            events = [make_event(f"{name}{turn}.{number}") for number in range(chance.randint(1, 3))]
            put(store, name, events)
            written |= {event.request_id for event in events}
        if chance.random() < 0.1:
            discarded |= {row["event_id"] for row in outbox_rows(store) if row["reporter"] == name}
            store.call(lambda connection, name=name: outbox.discard(connection, name))  # type: ignore[misc]
        if chance.random() < 0.05:
            reporters[name] = Reporter(name, "webhook", Sink(chance, got), kind(store, chance))
        for reporter in reporters.values():
            try:
                await reporter.step()
            except DatabaseError:
                continue
    return written - got - discarded - {row["event_id"] for row in outbox_rows(store)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_no_event_is_removed_that_nobody_got(store: Database, seed: int) -> None:
    assert await undelivered(store, seed) == set()


@pytest.mark.slow
async def test_ids_that_come_again_and_are_taken_for_the_old_ones_would_be_seen(store: Database) -> None:
    columns = ", ".join(f"{each.name} DEFAULT 0" for each in usage_outbox.c if each.name != "id")
    for statement in ("DROP TABLE usage_outbox", f"CREATE TABLE usage_outbox (id INTEGER PRIMARY KEY, {columns})"):
        store.call(lambda connection, statement=statement: connection.exec_driver_sql(statement))  # type: ignore[misc]
    lost: set[str] = set()
    for seed in range(6):
        lost |= await undelivered(store, seed, UnsureById)
    assert lost


async def test_no_id_comes_again_also_after_a_restart(tmp_path: Path) -> None:
    seen: list[int] = []
    for turn in range(3):
        database = make_store(f"sqlite:///{tmp_path}/store.db")
        put(database, "a", [make_event(f"{turn}.{number}") for number in range(3)])
        seen += [row["id"] for row in outbox_rows(database)]
        database.call(lambda connection: outbox.discard(connection, "a"))
        database.close()
    assert seen == sorted(set(seen))


async def test_a_row_is_named_by_its_event_as_well(store: Database) -> None:
    put(store, "a", [make_event("one"), make_event("two")])
    box = Outbox(store)
    one, two = await box.take("a", 1.0, 10, 60.0)
    await box.finish("a", Result(done=[(one.id, "other")], put_off=[((two.id, "other"), 99.0, 5)]), 1.0)
    await box.finish("b", Result(done=[one.row]), 1.0)
    assert [(row["event_id"], row["attempts"]) for row in outbox_rows(store)] == [("one", 0), ("two", 0)]
