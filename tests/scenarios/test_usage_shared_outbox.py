"""Several processes drain one outbox on PostgreSQL: each event goes out once, and what a dead one took comes again."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import text

from tests.support.databases import postgres_database
from tests.support.fakes import VirtualTime
from tests.support.usage import make_event, make_store, outbox_rows, payload, put, put_whole
from zuebee.config.settings_billing import StoreSettings
from zuebee.lib.sql.database import Database
from zuebee.lib.sql.dsn import database_url
from zuebee.schema import migrate
from zuebee.schema.prepare import prepare
from zuebee.usage import report
from zuebee.usage.outbox import Delivered, Outbox, OutboxEntry, Outcome, Standing
from zuebee.usage.report import Filter
from zuebee.usage.service import Reporter

EVENTS = 3000


@pytest.fixture
def store() -> Iterator[Database]:
    with postgres_database() as url:
        database = make_store(database_url("postgres", StoreSettings(url=url).url or ""))
        try:
            yield database
        finally:
            database.close()


class Sink:
    at_once = 16
    round_s = 1.0

    def __init__(self, got: list[str]) -> None:
        self.got = got

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        self.got += [entry.event_id for entry in entries]
        await asyncio.sleep(0)
        return [Delivered()]

    async def aclose(self) -> None:
        pass


async def test_three_drain_together_and_nothing_goes_out_twice(store: Database) -> None:
    put(store, "hook", [make_event(f"r{n}") for n in range(EVENTS)], at_s=1.0)
    got: list[list[str]] = [[], [], []]
    reporters = [Reporter("hook", "webhook", Sink(own), Outbox(store)) for own in got]

    async def drain(reporter: Reporter) -> None:
        while await reporter.step() == 0.0:
            pass

    await asyncio.gather(*map(drain, reporters))
    every = [event_id for own in got for event_id in own]
    assert len(every) == len(set(every)) == EVENTS
    assert outbox_rows(store) == []
    assert sum(bool(own) for own in got) > 1, "more than one had something to do"


async def test_what_a_dead_process_took_comes_again(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "hook", [make_event("r")], at_s=1.0)
    box = Outbox(store)
    assert len(await box.take("hook", virtual_time.now_s, 10, 60.0)) == 1
    assert await box.take("hook", virtual_time.now_s + 59, 10, 60.0) == []
    assert len(await box.take("hook", virtual_time.now_s + 60, 10, 60.0)) == 1
    assert await box.standings() == [Standing("hook", 1, 0, 1.0)]


async def test_events_of_the_version_before_are_delivered_after_the_migration() -> None:
    with postgres_database() as url:
        migrate.upgrade(url, "0001")
        database = Database(database_url("postgres", url), timeout_s=20.0)
        put_whole(database, "hook", [make_event("old")])
        prepare(url)
        put(database, "hook", [make_event("new")])
        entries = await Outbox(database).take("hook", 1.0, 10, 60.0)
        assert [entry.payload for entry in entries] == [payload(make_event("old")), payload(make_event("new"))]
        database.close()


async def test_totals_by_day_and_hour_on_postgresql(store: Database) -> None:
    add = "INSERT INTO usage_records (request_id, at_s, prompt_tokens, completion_tokens, cost_nano) VALUES"
    rows = "('a', 1800000000.9, 7, 5, 10), ('b', 1800003599.999, 1, 1, 1), ('c', 1799971200, 2, 2, 2)"
    store.call(lambda connection: connection.execute(text(f"{add} {rows}")))
    days = store.call(lambda connection: report.totals(connection, Filter(), ["day"]))
    hours = store.call(lambda connection: report.totals(connection, Filter(), ["hour"]))
    assert [(each.group, each.requests) for each in days] == [(("2027-01-15",), 3)]
    assert [each.group[0] for each in hours] == ["2027-01-15T00:00Z", "2027-01-15T08:00Z"]
    assert sum(each.total_tokens for each in days) == 18
    page = store.call(report.Pages(Filter(since_s=1800000000.0), "USD").read)
    assert page is not None
    assert [row["request_id"] for row in page] == ["a", "b"]
