import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.fakes import VirtualTime, until
from tests.support.usage import make_event, make_store, outbox_rows, put
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.usage import outbox as outbox_module
from zuebee.usage.gate import OutboxGate
from zuebee.usage.outbox import PARKED_AT_S, SCHEDULE_S, Delivered, Failed, Gone, Outbox, OutboxEntry, Outcome
from zuebee.usage.service import BATCH, IDLE_S, Planned, Reporter, Reporting


class FakeSink:
    """Answers with what `answer` says of an event id; `got` are the ids in order."""

    round_s = 1.0

    def __init__(self, answer: Callable[[str], Outcome], at_once: int = 16) -> None:
        self.at_once = at_once
        self.answer = answer
        self.got: list[str] = []
        self.calls: list[int] = []
        self.closed = False

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        self.calls.append(len(entries))
        await asyncio.sleep(0)
        self.got += [entry.event_id for entry in entries]
        return [self.answer(entry.event_id) for entry in entries]

    async def aclose(self) -> None:
        self.closed = True


def well(event_id: str) -> Outcome:
    return Delivered()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = make_store(f"sqlite:///{tmp_path}/store.db")
    yield database
    database.close()


def make(store: Database, sink: FakeSink, name: str = "a") -> Reporter:
    return Reporter(name, "webhook", sink, Outbox(store))


def planned(*reporters: Reporter) -> list[Planned]:
    """Plans for these, each with itself as its terms."""
    return [Planned(each.name, each, partial(lambda each: each, each)) for each in reporters]


@pytest.mark.requirement("A282")
async def test_all_that_is_due_is_delivered(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event(f"r{n}") for n in range(BATCH + 5)], at_s=1.0)
    put(store, "b", [make_event("other")], at_s=1.0)
    sink = FakeSink(well)
    reporter = make(store, sink)
    assert await reporter.step() == 0.0
    assert await reporter.step() == IDLE_S
    assert sorted(sink.got) == sorted(f"r{n}" for n in range(BATCH + 5))
    assert reporter.delivered == BATCH + 5
    assert [row["reporter"] for row in outbox_rows(store)] == ["b"]


@pytest.mark.slow
async def test_a_lonely_event_follows_the_schedule_and_is_parked(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event("r")], at_s=virtual_time.now_s)
    sink = FakeSink(lambda _: Failed("status 500"))
    reporter = make(store, sink)
    tried_at_s = []
    for _ in range(2000):
        before = len(sink.got)
        wait_s = await reporter.step()
        if len(sink.got) > before:
            tried_at_s.append(virtual_time.now_s)
        if outbox_rows(store)[0]["due_at_s"] == PARKED_AT_S:
            break
        virtual_time.advance(max(wait_s, 200.0 if len(tried_at_s) > 2 else 0.5))
    waits = [after - before for before, after in pairwise(tried_at_s)]
    assert len(tried_at_s) == len(SCHEDULE_S)
    for wait_s, planned_s in zip(waits, SCHEDULE_S[1:], strict=True):
        assert 0.9 * planned_s <= wait_s <= 1.1 * planned_s + 300
    assert reporter.failed == 8
    virtual_time.advance(10 * 86400)
    await reporter.step()
    assert len(sink.got) == 8
    store.call(lambda connection: outbox_module.retry(connection, "a", virtual_time.now_s))
    virtual_time.advance(400)
    sink.answer = well
    await reporter.step()
    assert outbox_rows(store) == []


async def test_the_log_tells_of_the_first_failure_and_not_of_each(
    store: Database, virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([Failed("status 404")] * 3 + [Delivered()] + [Failed("no answer in time")] * 2)
    put(store, "hook", [make_event(f"r{n}") for n in range(6)], at_s=1.0)
    await make(store, FakeSink(lambda _: next(answers)), "hook").step()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.rpartition(": ")[2] for message in told] == ["status 404", "no answer in time"]
    assert all(message.startswith("hook: an event was not taken") for message in told)


async def test_a_receiver_that_is_down_is_not_hammered(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event(f"r{n}") for n in range(1000)], at_s=1.0)
    sink = FakeSink(lambda _: Failed("status 500"))
    reporter = make(store, sink)
    end_s = virtual_time.now_s + 3600
    while virtual_time.now_s < end_s:
        virtual_time.advance(await reporter.step())
    assert len(sink.got) <= 16 + 5 + 3600 / 300 + 7
    assert reporter.health.state == "down"
    sink.answer = well
    while outbox_rows(store):
        virtual_time.advance(await reporter.step())
    assert set(sink.got) == {f"r{n}" for n in range(1000)}
    assert virtual_time.now_s < end_s + 300 + 10, "with the first success everything is due"


async def test_a_receiver_that_is_gone_is_left_alone_until_an_operator_acts(
    store: Database, virtual_time: VirtualTime
) -> None:
    put(store, "a", [make_event(f"r{n}") for n in range(50)], at_s=1.0)
    sink = FakeSink(lambda _: Gone())
    reporter = make(store, sink)
    for _ in range(100):
        virtual_time.advance(await reporter.step())
    assert len(sink.got) <= 16
    assert len(outbox_rows(store)) == 50
    reporting = Reporting(planned(reporter), OutboxGate(Outbox(store), 1000, refuse=True), 1.0)
    assert dict(reporting.states())["a", "paused"] == 1.0
    sink.answer = well
    store.call(lambda connection: outbox_module.retry(connection, "a", virtual_time.now_s))
    while outbox_rows(store):
        virtual_time.advance(await reporter.step())
    assert reporter.health.state == "up"


async def test_many_events_at_once_for_a_database(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event(f"r{n}") for n in range(BATCH)], at_s=1.0)
    sink = FakeSink(well, at_once=1)
    await make(store, sink).step()
    assert sink.calls == [BATCH]


async def test_catching_up_has_a_pace(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event(f"r{n}", model="x" * 60_000) for n in range(200)], at_s=1.0)
    sink = FakeSink(well)
    reporter = make(store, sink)
    begun_s = virtual_time.now_s
    while outbox_rows(store):
        virtual_time.advance(await reporter.step())
    virtual_time.advance(await reporter.step())
    assert virtual_time.now_s - begun_s > 200 * 60_000 / (2 << 20) - 1.5


async def test_what_was_delivered_is_not_delivered_again_when_the_store_fails_meanwhile(
    store: Database, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", [make_event("r")], at_s=1.0)
    sink = FakeSink(well)
    box = Outbox(store)
    reporter = Reporter("a", "webhook", sink, box)
    right = box.finish
    failures = 3

    async def finish(*arguments: object) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise DatabaseError("disk full")
        await right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(box, "finish", finish)
    for _ in range(3):
        with pytest.raises(DatabaseError):
            await reporter.step()
    await reporter.step()
    assert sink.got == ["r"]
    assert outbox_rows(store) == []


@pytest.mark.requirement("A275", "A279")
async def test_a_broken_reporter_does_not_hold_up_the_others(store: Database) -> None:
    async def hang(entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        await asyncio.sleep(60)
        return [Delivered()]

    broken, failing, fine = FakeSink(well), FakeSink(lambda _: Failed("x")), FakeSink(well)
    broken.deliver = hang  # type: ignore[method-assign]
    names = ("broken", "failing", "fine")
    for name in names:
        put(store, name, [make_event(f"r{n}") for n in range(20)], at_s=1.0)
    sinks = (broken, failing, fine)
    reporters = [make(store, sink, name) for sink, name in zip(sinks, names, strict=True)]
    reporting = Reporting(planned(*reporters), OutboxGate(Outbox(store), 1000, refuse=True), 0.2)
    reporting.start()
    async with asyncio.timeout(5):
        while len(fine.got) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await reporting.aclose()
    left = [row["reporter"] for row in outbox_rows(store)]
    assert (left.count("broken"), left.count("failing"), left.count("fine")) == (20, 20, 0)
    assert fine.closed


@pytest.mark.requirement("A282")
async def test_at_the_end_what_is_due_is_still_delivered_for_a_bounded_time(store: Database) -> None:
    sink = FakeSink(well)
    reporting = Reporting(planned(make(store, sink)), OutboxGate(Outbox(store), 1000, refuse=True), 5.0)
    reporting.start()
    await asyncio.sleep(0.05)
    put(store, "a", [make_event(f"r{n}") for n in range(3 * BATCH)], at_s=1.0)
    async with asyncio.timeout(5):
        await reporting.aclose()
    assert outbox_rows(store) == []
    assert len(sink.got) == 3 * BATCH


async def test_reporting_without_reporters_does_nothing(store: Database) -> None:
    reporting = Reporting([], OutboxGate(Outbox(store), 1000, refuse=True), 5.0)
    reporting.start()
    await reporting.aclose()


async def test_figures_for_the_metrics(store: Database, virtual_time: VirtualTime) -> None:
    put(store, "a", [make_event("r"), make_event("bad")], at_s=1.0)
    sink = FakeSink(lambda event_id: Failed("x") if event_id == "bad" else Delivered())
    reporter = make(store, sink)
    table = Reporter("t", "database", FakeSink(well), Outbox(store))
    table.delivered = 9
    await reporter.step()
    reporting = Reporting(planned(reporter, table), OutboxGate(Outbox(store), 1000, refuse=True), 5.0)
    assert list(reporting.successes()) == [((), 1)]
    assert list(reporting.failures()) == [((), 1)]
    assert dict(reporting.deliveries()) == {
        ("a", "delivered"): 1,
        ("a", "failed"): 1,
        ("t", "delivered"): 9,
        ("t", "failed"): 0,
    }
    assert ((("a", "up"), 1.0)) in list(reporting.states())


class SlowSink(FakeSink):
    """One whose rounds take a while; `running`: how many there are at the moment, `most`: were at once, for all."""

    running = most = 0

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        SlowSink.running += 1
        SlowSink.most = max(SlowSink.most, SlowSink.running)
        await asyncio.sleep(0.02)
        SlowSink.running -= 1
        return await super().deliver(entries, probe=probe)


async def test_reporters_change_while_they_run_and_nothing_is_told_twice(store: Database) -> None:
    SlowSink.running = SlowSink.most = 0
    sinks = [SlowSink(well, at_once=1) for _ in range(3)]
    old, new = make(store, sinks[0]), make(store, sinks[1])
    steady = make(store, sinks[2], "steady")
    for name in ("a", "steady"):
        put(store, name, [make_event(f"r{n}") for n in range(3 * BATCH)], at_s=1.0)
    first, second = planned(old, steady), planned(steady, new)
    reporting = Reporting(first, OutboxGate(Outbox(store), 10_000, refuse=True), 5.0)
    names = reporting.names
    reporting.start()
    await asyncio.sleep(0.01)
    made = reporting.make(second)
    assert made == [new]
    reporting.change(second, made)
    assert names == ["steady", "a"]
    async with asyncio.timeout(5):
        while outbox_rows(store):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert sorted(sinks[0].got + sinks[1].got) == sorted(sinks[2].got) == sorted(f"r{n}" for n in range(3 * BATCH))
    assert sinks[0].got
    assert sinks[1].got
    assert sinks[0].closed
    assert not sinks[2].closed
    assert SlowSink.most == 2, "the new one waits for the old one of its name"
    assert dict(reporting.deliveries())[("a", "delivered")] >= len(sinks[1].got)
    await reporting.aclose()


async def test_a_reporter_that_is_gone_leaves_its_events(store: Database) -> None:
    put(store, "a", [make_event("r")], at_s=1.0)
    sink = FakeSink(lambda _: Failed("x"))
    reporting = Reporting(planned(make(store, sink)), OutboxGate(Outbox(store), 1000, refuse=True), 0.1)
    reporting.start()
    await asyncio.sleep(0.05)
    reporting.change([], reporting.make([]))
    assert reporting.names == []
    await until(lambda: sink.closed)
    assert len(outbox_rows(store)) == 1
    await reporting.aclose()


async def test_a_plan_that_cannot_be_made_changes_nothing(store: Database) -> None:
    def fails() -> Reporter:
        raise ValueError("no such file")

    sink = FakeSink(well)
    reporting = Reporting(planned(make(store, sink)), OutboxGate(Outbox(store), 1000, refuse=True), 0.1)
    with pytest.raises(ValueError, match="no such file"):
        reporting.make([Planned("a", "other terms", fails)])
    assert reporting.names == ["a"]
    assert not sink.closed
