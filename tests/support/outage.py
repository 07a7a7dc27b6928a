"""A receiver that is away for an hour of virtual time, and what becomes of the events of that hour."""

from pathlib import Path
from typing import Any, NamedTuple

from tests.support.fakes import VirtualTime
from tests.support.usage import Receiver, make_event, make_store, put, receiving
from zuebee.config.settings_billing import ReporterSettings
from zuebee.lib.sql.database import Database
from zuebee.usage.outbox import PARKED_AT_S, Outbox
from zuebee.usage.service import Reporter
from zuebee.usage.webhook import WebhookSink

OUTAGE_S = 3600
ANSWERS_LOST = 97
"""One in so many answers is lost after the receiver has processed the event."""


class Outcome(NamedTuple):
    """`sent`: the ids of all events; `processed`: those the receiver took in, in order; `lost` of them without an
    answer; `asked_while_down`: deliveries that reached the receiver while it was away; `back_s`: how long after its
    return everything had been delivered.
    """

    sent: set[str]
    processed: list[str]
    lost: int
    asked_while_down: int
    back_s: float


async def outage(folder: Path, virtual: VirtualTime, events: int, *, forget: bool = False) -> Outcome:
    """Send `events` evenly over an hour in which the receiver is down, then until all is delivered.

    `forget` breaks it on purpose: an event is removed after its first round, whatever became of it.
    """
    begun_s = virtual.now_s
    processed: list[str] = []
    figures = {"lost": 0, "down": 0}

    async def answer(receiver: Receiver, number: int) -> bytes | None:
        event_id = receiver.got[-1][1]["webhook-id"]
        receiver.got.clear()
        if virtual.now_s < begun_s + OUTAGE_S:
            figures["down"] += 1
            return (b"503", b"500", None)[figures["down"] % 3]
        processed.append(event_id)
        if len(processed) % ANSWERS_LOST == 0:
            figures["lost"] += 1
            return None
        return b"200"

    store = make_store(f"sqlite:///{folder}/store.db")
    sent: set[str] = set()
    async with receiving(answer) as receiver:
        sink = WebhookSink(ReporterSettings(name="hook", type="webhook", url=receiver.url), None)
        box: Any = Outbox(store)
        if forget:
            _forget_failures(box)
        reporter = Reporter("hook", "webhook", sink, box)
        next_step_s = virtual.now_s
        for second in range(OUTAGE_S):
            count = events * (second + 1) // OUTAGE_S - events * second // OUTAGE_S
            some = [make_event(f"req_{second}_{n}") for n in range(count)]
            if some:
                put(store, "hook", some, at_s=virtual.now_s)
                sent |= {event.request_id for event in some}
            virtual.advance(1.0)
            if virtual.now_s >= next_step_s:
                next_step_s = virtual.now_s + await reporter.step()
        end_s = begun_s + OUTAGE_S + 4 * 86400
        while virtual.now_s < end_s and waiting(store):
            virtual.advance(await reporter.step())
        back_s = virtual.now_s - begun_s - OUTAGE_S
        await sink.aclose()
    store.close()
    return Outcome(sent, processed, figures["lost"], figures["down"], back_s)


def waiting(store: Database) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM usage_outbox WHERE due_at_s < ?)"
    return bool(store.call(lambda connection: connection.exec_driver_sql(query, (PARKED_AT_S,)).scalar()))


def _forget_failures(box: Any) -> None:
    finish = box.finish

    async def forgetful(reporter: str, result: Any, now_s: float) -> None:
        result.done += [row for row, _, _ in result.put_off]
        await finish(reporter, result, now_s)

    box.finish = forgetful
