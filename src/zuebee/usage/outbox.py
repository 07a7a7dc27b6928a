"""The outbox: events that somebody must still be told of, one row for each event and reporter.

Whoever settles a request writes its rows, in the settling transaction. A row says of which usage record it tells; the
event is made of that when it is taken. Here rows are read, put off and removed.
"""

import logging
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, bindparam, case, delete, func, select, tuple_, update

from zuebee.contracts.usage import RECORD_COLUMNS, UsageEvent
from zuebee.lib.sql.database import Database
from zuebee.lib.timestamps import rfc3339
from zuebee.schema.tables import usage_outbox, usage_records
from zuebee.usage import outbox

# When an event is tried again, when a reporter is left alone, and how fast it may catch up. PURE.
#
# All times are seconds on a clock that the caller reads.

SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
"""The waits before each round of an event, as Standard Webhooks recommends: 27.6 hours in all."""

JITTER = 0.1
PARKED_AT_S = 1e12
"""When a parked event is due: never."""

DOWN_AFTER = 5
PROBE_WAITS_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
MAX_RETRY_AFTER_S = 3600.0


class Delivered(msgspec.Struct, frozen=True):
    """The receiver has it."""


class Failed(msgspec.Struct, frozen=True):
    """It may not have it. `retry_after_s`: how long it wants to be left alone, if it said so."""

    reason: str
    retry_after_s: float | None = None


class Gone(msgspec.Struct, frozen=True):
    """It wants nothing any more (410)."""


Outcome = Delivered | Failed | Gone


def judge(status: int, retry_after: str | None, now_s: float) -> Outcome:
    """What an HTTP answer means: 2xx is success, 410 the end, and all else, redirects too, a failure.

    `retry_after`: seconds or a date (RFC 9110, section 10.2.3).
    """
    if 200 <= status < 300:
        return Delivered()
    if status == 410:
        return Gone()
    wait_s = _seconds(retry_after.strip(), now_s) if status in (429, 503) and retry_after else None
    return Failed(f"status {status}", wait_s)


def _seconds(retry_after: str, now_s: float) -> float | None:
    if retry_after.isdecimal():
        return min(float(retry_after), MAX_RETRY_AFTER_S)
    try:
        wait_s = parsedate_to_datetime(retry_after).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def due_after(rounds: int, now_s: float, chance: float) -> float:
    """When an event is due again of which so many rounds failed; PARKED_AT_S after the last of them.

    `chance` is a random number in [0, 1): waits differ by up to 10 % either way, so that events spread.
    """
    if rounds >= len(SCHEDULE_S):
        return PARKED_AT_S
    return now_s + SCHEDULE_S[rounds] * (1 - JITTER + 2 * JITTER * chance)


def attempt_wait_s(attempt: int) -> float:
    """The wait after failed attempt number `attempt` (from 1) of one round."""
    return 0.1 * attempt


def masked(text: str) -> str:
    """The first and the last four characters; of a short text nothing."""
    return f"{text[:4]}***{text[-4:]}" if len(text) > 8 else "***" if text else ""


class ReceiverHealth:
    """Whether a reporter's receiver takes events.

    `up`: as many at once as are due. `down`, after five failed events in a row or when it asked for a rest: one event
    at a time, after 5, 10, 20, ... 300 s. `paused`: none.
    """

    def __init__(self) -> None:
        self.state: Literal["up", "down", "paused"] = "up"
        self.next_at_s = 0.0
        self._failures = 0

    @property
    def fails(self) -> bool:
        """Whether the last round failed."""
        return self._failures > 0

    def wait_s(self, now_s: float) -> float:
        """How long to leave the receiver alone."""
        return 0.0 if self.state == "up" else max(0.0, self.next_at_s - now_s)

    def note(self, outcome: Outcome, now_s: float) -> bool:
        """Take note of a round; True when a receiver that was down is back."""
        if self.state == "paused":
            return False
        if isinstance(outcome, Delivered):
            was_down = self.state == "down"
            self.resume()
            return was_down
        if isinstance(outcome, Gone):
            self.state = "paused"
            return False
        waits = self.state == "down" and now_s < self.next_at_s
        if waits and outcome.retry_after_s is None:
            return False  # one of many at once, or of one batch: they count as one
        self._failures += 1
        if self._failures >= DOWN_AFTER or outcome.retry_after_s is not None:
            beyond = max(0, self._failures - DOWN_AFTER)
            wait_s = PROBE_WAITS_S[min(beyond, len(PROBE_WAITS_S) - 1)]
            self.state = "down"
            self.next_at_s = max(self.next_at_s, now_s + max(wait_s, outcome.retry_after_s or 0.0))
        return False

    def resume(self) -> None:
        """Take it as fit again."""
        self.state, self._failures, self.next_at_s = "up", 0, 0.0


class ByteRateLimit:
    """A bucket of bytes: `rate` a second on average, one second's worth at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._level = rate
        self._at_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long to wait before anything more may be sent."""
        self._fill(now_s)
        return max(0.0, -self._level / self._rate)

    def spend(self, size_bytes: int, now_s: float) -> None:
        """So much is sent now; more than is there must be waited for afterwards."""
        self._fill(now_s)
        self._level -= size_bytes

    def _fill(self, now_s: float) -> None:
        self._level = min(self._rate, self._level + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s


IDS_PER_STATEMENT = 500
LATE = "/late"
"""After the request's id: the id of the event of what was charged after the hold had expired."""

_log = logging.getLogger("zuebee.usage")

_rows = usage_outbox.c
_parked = _rows.due_at_s >= PARKED_AT_S
_told = [usage_records.c[name] for name in RECORD_COLUMNS]
# An id is given again if records were removed by hand: the request must be the right one, too.
_its_record = (usage_records.c.id == _rows.record) & _rows.event_id.in_(
    [usage_records.c.request_id, usage_records.c.request_id + LATE]
)


Row = tuple[int, str]
"""What names a row for as long as anybody may remember it: its id, and the id of its event."""


class OutboxEntry(msgspec.Struct, frozen=True):
    """One row. `payload`: the event, as JSON; `rounds`: how many rounds of attempts failed so far."""

    id: int
    event_id: str
    payload: str
    rounds: int

    @property
    def row(self) -> Row:
        """Its name."""
        return self.id, self.event_id


class Result(msgspec.Struct):
    """What is to be written of a batch: rows that are done, and when the others are due, after how many rounds.

    `revive`: everything of this reporter is due now, parked events too.
    """

    done: list[Row] = []
    put_off: list[tuple[Row, float, int]] = []
    revive: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How one reporter stands: rows that wait, rows that are parked, and when the oldest that waits was made."""

    reporter: str
    waiting: int
    parked: int
    oldest_at_s: float | None


class Outbox:
    """The outbox in the store. `shared`: other processes drain it too. Every method may raise `DatabaseError`.

    `removed`: how many rows `finish` has removed so far.
    """

    def __init__(self, database: Database) -> None:
        self.removed = 0
        self._database = database
        # Several processes drain the same outbox on PostgreSQL: there a row that is taken is put off, for so long that
        # its taker is done or dead. SQLite has one process, which knows by itself what it has taken.
        self.shared = database.engine.dialect.name == "postgresql"

    async def take(self, reporter: str, now_s: float, limit: int, lease_s: float) -> list[OutboxEntry]:
        """Up to `limit` rows that are due, oldest first. Nobody else gets them for `lease_s`.

        Rows whose record somebody has removed are parked: there is nothing left to tell.
        """
        return await self._database.run(lambda connection: self._take(connection, reporter, now_s, limit, lease_s))

    def _take(
        self, connection: Connection, reporter: str, now_s: float, limit: int, lease_s: float
    ) -> list[OutboxEntry]:
        query = (
            select(_rows.id, _rows.event_id, _rows.attempts, _rows.record, _rows.payload, _rows.currency, *_told)
            .select_from(usage_outbox.outerjoin(usage_records, _its_record))
            .where(_rows.reporter == reporter, _rows.due_at_s <= now_s)
            .order_by(_rows.due_at_s, _rows.id)
            .limit(limit)
        )
        if self.shared:
            query = query.with_for_update(of=usage_outbox, skip_locked=True)
        entries, empty = [], []
        for row in connection.execute(query):
            payload = _payload(row)
            if payload:
                entries.append(OutboxEntry(row[0], row[1], payload, row[2]))
            else:
                empty.append(row[0])
        if self.shared and entries:
            taken = [entry.id for entry in entries]
            connection.execute(update(usage_outbox).where(_rows.id.in_(taken)).values(due_at_s=now_s + lease_s))
        if empty:
            _log.error("%s: %d events are parked, for their usage records were removed", reporter, len(empty))
            connection.execute(update(usage_outbox).where(_rows.id.in_(empty)).values(due_at_s=PARKED_AT_S))
        return entries

    async def finish(self, reporter: str, result: Result, now_s: float) -> None:
        """Write what became of a batch, in one transaction."""
        self.removed += await self._database.run(lambda connection: self._finish(connection, reporter, result, now_s))

    def _finish(self, connection: Connection, reporter: str, result: Result, now_s: float) -> int:
        removed = 0
        for start in range(0, len(result.done), IDS_PER_STATEMENT):
            rows = result.done[start : start + IDS_PER_STATEMENT]
            mine = (_rows.reporter == reporter) & tuple_(_rows.id, _rows.event_id).in_(rows)
            removed += connection.execute(delete(usage_outbox).where(mine)).rowcount
        if result.put_off:
            change = update(usage_outbox).where(_rows.id == bindparam("row"), _rows.event_id == bindparam("event"))
            change = change.values(due_at_s=bindparam("due"), attempts=bindparam("rounds"))
            changes = [
                {"row": row, "event": event_id, "due": due_s, "rounds": rounds}
                for (row, event_id), due_s, rounds in result.put_off
            ]
            connection.execute(change, changes)
        if result.revive:
            _revive(connection, reporter, now_s)
        return removed

    async def is_parked(self, row: Row) -> bool:
        """Whether the row is there and parked."""
        query = select(_rows.id).where(_rows.id == row[0], _rows.event_id == row[1], _parked)
        return await self._database.run(lambda connection: connection.execute(query).first() is not None)

    async def standings(self) -> list[Standing]:
        """How all reporters stand. Reads an index from end to end: about half a second for 5 million rows."""
        return await self._database.run(standings)


def _payload(row: Any) -> str:
    """The event of a row; empty if its record is not there."""
    _, _, _, record, payload, currency, *values = row
    if not record:
        return str(payload)
    return outbox.event(values, currency) if values[0] is not None else ""


def standings(connection: Connection) -> list[Standing]:
    """How all reporters stand. Reads an index from end to end."""
    query = select(
        _rows.reporter,
        func.count(),
        func.sum(case((_parked, 1), else_=0)),
        func.min(case((~_parked, _rows.id))),
    ).group_by(_rows.reporter)
    counted = connection.execute(query.order_by(_rows.reporter)).all()
    first = [row[3] for row in counted if row[3] is not None]
    creation = select(_rows.id, _rows.created_at_s).where(_rows.id.in_(first))
    made = {row.id: row.created_at_s for row in connection.execute(creation)}
    return [
        Standing(reporter, int(rows) - int(parked), int(parked), made.get(oldest))
        for reporter, rows, parked, oldest in counted
    ]


def retry(connection: Connection, reporter: str, now_s: float) -> int:
    """Make all events of a reporter due now, parked ones from the start of the schedule; how many were parked."""
    parked = connection.execute(
        update(usage_outbox).where(_rows.reporter == reporter, _parked).values(due_at_s=now_s, attempts=0)
    )
    _revive(connection, reporter, now_s)
    return int(parked.rowcount)


def discard(connection: Connection, reporter: str) -> int:
    """Remove all events of a reporter; how many there were."""
    return int(connection.execute(delete(usage_outbox).where(_rows.reporter == reporter)).rowcount)


def _revive(connection: Connection, reporter: str, now_s: float) -> None:
    # Without those that nobody tried yet: they are due already, or another process has just taken them.
    put_off = (_rows.reporter == reporter, _rows.due_at_s > now_s, _rows.attempts > 0)
    connection.execute(update(usage_outbox).where(*put_off).values(due_at_s=now_s))


# A usage record as the event that others are told.

_encode = msgspec.json.Encoder().encode
_tags = msgspec.json.Decoder(tuple[str, ...]).decode


def event(values: Any, currency: str) -> str:
    """The event of a record, as JSON. `values` are those of RECORD_COLUMNS, `currency` is that of its cost."""
    (
        request_id, at_s, key_id, key_name, user_id, team_id, organization_id, plan, priority, model,
        method, endpoint, is_stream, status, termination_reason, code, backend, backend_url, attempts,
        prompt_tokens, completion_tokens, cached_tokens, usage_source, cost_nano, duration_ms,
        first_token_ms, tags,
    ) = values  # fmt: skip
    prompt_tokens, completion_tokens = prompt_tokens or 0, completion_tokens or 0
    # By position, which takes a third of the time of so many names.
    said = UsageEvent(
        request_id, user_id, key_id, model, prompt_tokens, completion_tokens, prompt_tokens + completion_tokens,
        bool(is_stream), endpoint, rfc3339(at_s), backend_url, method, endpoint, status, round(duration_ms), key_id,
        key_name, team_id, organization_id, plan, priority, _tags(tags), cached_tokens or 0, usage_source or "",
        termination_reason, code, backend, attempts, None if first_token_ms is None else round(first_token_ms),
        cost_nano, currency,
    )  # fmt: skip
    return _encode(said).decode()
