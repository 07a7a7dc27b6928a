import sqlite3
from pathlib import Path
from typing import Any

from zuebee.contracts.admission import Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.ledger.decide import record_of
from zuebee.ledger.port import NoBound
from zuebee.ledger.sqlite import usage
from zuebee.ledger.sqlite.usage import UsageRows
from zuebee.lib.sql.database import Database
from zuebee.schema.prepare import prepare
from zuebee.usage.outbox import PARKED_AT_S, Outbox

NOW_S = 1_790_000_000.25
DAY_S = 86_400.0
WHO = Principal("key_1", "dev", "ann", "ml", "acme", "gold", "high", ("a", "b"))

# What receivers were told of this request when the outbox held events and not references.
TOLD = (
    '{"request_id":"r","user_id":"ann","api_key":"key_1","model":"m","prompt_tokens":7,"completion_tokens":5,'
    '"total_tokens":12,"is_stream":true,"endpoint":"/v1/x","timestamp":"2026-09-21T14:13:20.250Z",'
    '"backend_url":"http://b","method":"POST","path":"/v1/x","status_code":200,"latency_ms":500,'
    '"key_id":"key_1","key_name":"dev","team_id":"ml","organization_id":"acme","plan":"gold","priority":"high",'
    '"tags":["a","b"],"cached_tokens":2,"usage_source":"provider","termination_reason":"complete","code":"","backend":"b",'
    '"attempts":1,"first_token_ms":100,"cost_nano":7,"currency":"EUR"}'
)


class Table:
    """A store and who writes to it."""

    def __init__(
        self,
        path: Path,
        *reporters: str,
        retention_days: int = 0,
        room: Any = None,
        at_once: int = 10_000,
    ) -> None:
        prepare(str(path))
        self.path = path
        self.billed: set[str] = set()
        self.db = sqlite3.connect(path, isolation_level=None)
        self.rows = UsageRows(reporters, "EUR", retention_days * DAY_S, room or NoBound(), at_once)

    def write(self, *settlements: Settlement) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.rows.write(self.db, [record_of(each, billed=each.request_id in self.billed) for each in settlements])
        self.db.execute("COMMIT")

    def ask(self, sql: str) -> list[Any]:
        return self.db.execute(sql).fetchall()

    def records(self) -> list[str]:
        return [name for (name,) in self.ask("SELECT request_id FROM usage_records ORDER BY id")]


def settled(name: str, at_s: float = NOW_S) -> Settlement:
    return Settlement(
        name, "POST", "/v1/x", "", at_s, 200, "complete", principal=WHO, grant=Grant(WHO), model="m", stream=True,
        backend="b", backend_url="http://b", attempts=1, usage=Usage(7, 5, "provider", 2), cost_nano=7,
        duration_s=0.5, first_token_s=0.1,
    )  # fmt: skip


async def test_what_is_written_is_what_each_reporter_is_told(tmp_path: Path) -> None:
    table = Table(tmp_path / "z.db", "one", "two")
    table.write(*(settled(f"first-{number}") for number in range(250)))
    table.write(settled("r"))
    database = Database(f"sqlite:///{table.path}", timeout_s=5)
    for reporter in ("one", "two"):
        taken = await Outbox(database).take(reporter, NOW_S, 1000, 60.0)
        assert [entry.event_id for entry in taken] == [*(f"first-{number}" for number in range(250)), "r"]
        assert [entry.payload for entry in taken] == [TOLD.replace('"r"', f'"{entry.event_id}"') for entry in taken]
    database.close()


def test_days_are_summed_up(tmp_path: Path) -> None:
    table = Table(tmp_path / "z.db")
    table.write(settled("a"), settled("b"))
    table.write(settled("c"), settled("later", NOW_S + DAY_S))
    assert table.ask("SELECT requests, prompt_tokens, completion_tokens, cost_nano FROM usage_days ORDER BY day") == [
        (3, 21, 15, 21), (1, 7, 5, 7),
    ]  # fmt: skip
    assert table.ask("SELECT count(*) FROM usage_outbox") == [(0,)]


def test_what_finds_no_room_is_recorded_and_not_told(tmp_path: Path) -> None:
    class Room:
        rows = 0

        def room_for(self, rows: int, *, billed: bool) -> bool:
            assert rows == 2
            return billed

        def added(self, rows: int) -> None:
            self.rows += rows

    room = Room()
    table = Table(tmp_path / "z.db", "one", "two", room=room)
    table.billed = set("bdef")
    table.write(*(settled(name) for name in "abcdefg"))
    assert table.records() == list("abcdefg")
    told = table.ask(
        "SELECT o.event_id, o.reporter, r.request_id FROM usage_outbox o JOIN usage_records r ON r.id = o.record"
    )
    assert told == [(name, reporter, name) for name in "bdef" for reporter in ("one", "two")]
    assert room.rows == 8


def test_old_records_go_little_by_little(tmp_path: Path) -> None:
    table = Table(tmp_path / "z.db", retention_days=1, at_once=2)
    table.write(*(settled(name) for name in "abcde"))
    left = []
    for number in range(4):
        table.write(settled(f"new-{number}", NOW_S + 3 * DAY_S))
        left.append([name for name in table.records() if len(name) == 1])
    assert left == [["c", "d", "e"], ["e"], [], []]
    assert len(table.records()) == 4


def test_no_record_goes_of_which_somebody_must_still_be_told(tmp_path: Path) -> None:
    table = Table(tmp_path / "z.db", "one", "two", retention_days=1, at_once=2)
    table.write(*(settled(name) for name in "abcdefgh"))
    # Of `b` the second is to be told, of `e` the first; `g` was parked.
    table.db.execute(
        "DELETE FROM usage_outbox WHERE (event_id, reporter) NOT IN (VALUES ('b', 'two'), ('e', 'one'), ('g', 'one'))"
    )
    table.db.execute("UPDATE usage_outbox SET due_at_s = ? WHERE event_id = 'g'", (PARKED_AT_S,))
    table.write(settled("young", NOW_S + 3 * DAY_S - 60))
    for number in range(6):
        table.write(settled(f"new-{number}", NOW_S + 3 * DAY_S))
    assert [name for name in table.records() if len(name) == 1] == ["b", "e", "g"]
    # The control: once they are told, their records go as well, at the next look.
    table.db.execute("DELETE FROM usage_outbox WHERE record < 9")
    for number in range(6):
        table.write(settled(f"newer-{number}", NOW_S + 3 * DAY_S + usage.CLEANING_INTERVAL_S + 1))
    assert [name for name in table.records() if len(name) == 1] == []
    assert "young" in table.records()


def test_looking_for_old_records_reads_little_of_a_long_outbox(tmp_path: Path) -> None:
    table = Table(tmp_path / "z.db", "one")
    table.write(*(settled(name) for name in "ab"))
    table.db.execute("DELETE FROM usage_outbox")
    for _ in range(20):
        table.write(*(settled(f"new-{number}", NOW_S + 3 * DAY_S - 60) for number in range(500)))
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    table.db.set_progress_handler(count, 1000)
    for at_s, at_once, few in (
        (NOW_S + 3 * DAY_S, 2, True),
        (NOW_S + 9 * DAY_S, 20_000, False),
    ):  # all are old: a control
        table.rows = UsageRows(("one",), "EUR", DAY_S, NoBound(), at_once)
        steps = 0
        table.write(settled("last", at_s))
        assert (steps < 10) is few, "thousands of instructions"
        assert table.records()[0] == "new-0", "of the others somebody must still be told"
