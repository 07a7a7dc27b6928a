"""Events on PostgreSQL name their usage records, which stay for as long."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.databases import postgres_database
from tests.support.shared_ledger import AT_S, post, record, reserve
from zuebee.config.settings_billing import StoreSettings
from zuebee.contracts.admission import Budget
from zuebee.contracts.inference import Usage
from zuebee.ledger.operations import Expire, Renew, Settle
from zuebee.ledger.postgres import store as store_module
from zuebee.ledger.postgres.store import FORGET_EVERY_S, PostgresStore
from zuebee.lib import clock
from zuebee.lib.sql.database import Database
from zuebee.lib.sql.dsn import database_url
from zuebee.schema.prepare import prepare
from zuebee.usage.outbox import Outbox, OutboxEntry

KEY = Budget("key:1/tokens/never", "tokens", "never", 10_000)

# What receivers were told of this request when the outbox held events and not references.
TOLD = (
    '{"request_id":"r","user_id":"me","api_key":"key_1","model":"m","prompt_tokens":7,"completion_tokens":5,'
    '"total_tokens":12,"is_stream":true,"endpoint":"/v1/chat/completions","timestamp":"2027-01-15T08:00:00.000Z",'
    '"backend_url":"http://b","method":"POST","path":"/v1/chat/completions","status_code":200,"latency_ms":500,'
    '"key_id":"key_1","key_name":"mine","team_id":"","organization_id":"","plan":"","priority":"normal",'
    '"tags":[],"cached_tokens":2,"usage_source":"provider","termination_reason":"complete","code":"","backend":"b",'
    '"attempts":1,"first_token_ms":100,"cost_nano":9,"currency":"EUR"}'
)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


def store_with(url: str, *reporters: str, retention_days: int = 0) -> PostgresStore:
    store = PostgresStore(
        url, reporters=reporters, currency="EUR", retention_days=retention_days, timeout_s=5.0, hold_s=30.0
    )
    store.start("test")
    return store


def ask(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql).fetchall()


def do(url: str, sql: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(sql)


def take(url: str, reporter: str) -> list[OutboxEntry]:
    database = Database(database_url("postgres", StoreSettings(url=url).url or ""), timeout_s=5.0)
    try:
        return asyncio.run(Outbox(database).take(reporter, AT_S + 1, 10_000, 60.0))
    finally:
        database.close()


def told(entries: list[OutboxEntry]) -> list[tuple[str, str, int]]:
    found = [(entry.event_id, json.loads(entry.payload)) for entry in entries]
    return [(event_id, event["request_id"], event["total_tokens"]) for event_id, event in found]


def test_each_reporter_is_told_what_it_was_always_told(url: str) -> None:
    store = store_with(url, "one", "two")
    more = {"model": "m", "stream": True, "status": 200, "termination_reason": "complete", "backend": "b",
            "attempts": 1, "backend_url": "http://b", "duration_s": 0.5, "first_token_s": 0.1}  # fmt: skip
    said = Settle("", None, record("r", cost_nano=9, usage=Usage(7, 5, "provider", 2), **more))
    store.apply(1, [*(Settle("", None, record(f"r{number}", number)) for number in range(300)), said])
    for reporter in ("one", "two"):
        entries = take(url, reporter)
        assert told(entries) == [*((f"r{number}", f"r{number}", number) for number in range(300)), ("r", "r", 12)]
        assert entries[-1].payload == TOLD


def test_two_records_of_one_request_in_one_batch_have_their_own_events(url: str) -> None:
    store = store_with(url, "hook")
    begin = reserve("r", (KEY,), 100)
    begin.record = '["key_1","mine","me","","","","normal","m","/v1/chat/completions",true,1800000000.0]'
    store.apply(1, [begin, Renew([("r", 30, 0)], 30.0)])
    store.apply(2, [Settle("", None, record("other", 3)), Expire("r", is_ownerless=True), post("r", 90)])
    assert told(take(url, "hook")) == [("other", "other", 3), ("r", "r", 30), ("r/late", "r", 60)]


def test_processes_that_write_at_once_do_not_mix_their_records_up(url: str) -> None:
    async def write(name: str) -> None:
        store = store_with(url, "hook")
        for number in range(40):
            some = [Settle("", None, record(f"{name}_{number}_{each}", number)) for each in range(5)]
            await asyncio.to_thread(store.apply, number + 1, list(some))

    async def all_of_them() -> None:
        await asyncio.gather(*(write(name) for name in "abc"))

    asyncio.run(all_of_them())
    found = told(take(url, "hook"))
    assert len(found) == 600
    assert all(event == request and int(event.split("_")[1]) == tokens for event, request, tokens in found)


def test_no_record_goes_of_which_somebody_must_still_be_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with(url, "hook", retention_days=1)
    store.apply(1, [Settle("", None, record(name, 1)) for name in "abc"])
    do(url, "UPDATE usage_records SET at_s = 1e9")  # long ago
    do(url, "DELETE FROM usage_outbox WHERE event_id = 'a'")
    store.sweep()
    assert ask(url, "SELECT request_id FROM usage_records ORDER BY id") == [("b",), ("c",)]
    do(url, "DELETE FROM usage_outbox WHERE event_id = 'b'")
    store.sweep()
    assert ask(url, "SELECT count(*) FROM usage_records") == [(2,)], "all records are not read at each sweep"
    later_s = clock.monotonic_s() + FORGET_EVERY_S
    monkeypatch.setattr(clock, "monotonic_s", lambda: later_s)
    store.sweep()
    assert told(take(url, "hook")) == [("c", "c", 1)]
    assert ask(url, "SELECT request_id FROM usage_records") == [("c",)]


def test_many_old_records_go_one_part_after_the_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FORGOTTEN_AT_ONCE", 2)
    store = store_with(url, retention_days=1)
    store.apply(1, [Settle("", None, record(name, 1)) for name in "abcde"])
    do(url, "UPDATE usage_records SET at_s = 1e9")
    left = []
    for _ in range(3):
        store.sweep()
        left.append(ask(url, "SELECT count(*) FROM usage_records")[0][0])
    assert left == [3, 1, 0]
