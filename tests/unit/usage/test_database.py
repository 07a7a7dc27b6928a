from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import text

from tests.support.usage import make_event, payload
from zuebee.config.settings_billing import ReporterDatabaseSettings, ReporterSettings
from zuebee.contracts.usage import UsageEvent
from zuebee.usage.database import DatabaseSink
from zuebee.usage.outbox import Delivered, Failed, OutboxEntry


def sink(path: Path, table: str = "usage_records", **changes: Any) -> DatabaseSink:
    database = ReporterDatabaseSettings(driver="sqlite", dsn=str(path), table=table)
    return DatabaseSink(ReporterSettings(name="sql", type="database", database=database, **changes))


def entries(*events: UsageEvent) -> list[OutboxEntry]:
    return [OutboxEntry(n, event.request_id, payload(event), 0) for n, event in enumerate(events)]


def rows(path: Path, table: str = "usage_records") -> list[dict[str, Any]]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(text(f'SELECT * FROM "{table}" ORDER BY id')).mappings()]
    engine.dispose()
    return found


async def test_the_table_is_made_with_the_known_columns(tmp_path: Path) -> None:
    path = tmp_path / "made" / "usage.db"
    reporter = sink(path)
    assert await reporter.deliver(entries(make_event()), probe=False) == [Delivered()]
    (row,) = rows(path)
    assert list(row)[:15] == [
        "id", "request_id", "timestamp", "api_key", "user_id", "method", "path", "backend_url", "status_code",
        "latency_ms", "prompt_tokens", "completion_tokens", "total_tokens", "request_body", "created_at",
    ]  # fmt: skip
    assert row["timestamp"] == "2027-01-15 08:00:00.500000"
    assert (row["request_id"], row["api_key"], row["user_id"]) == ("req_1", "key_0123456789", "me")
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (7, 5, 12)
    assert row["request_body"] is None
    assert row["created_at"]
    assert (row["model"], row["cost_nano"], row["currency"]) == ("m", 1_500_000, "USD")
    await reporter.aclose()


async def test_what_comes_twice_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    reporter = sink(path)
    one, two = make_event("one"), make_event("two")
    await reporter.deliver(entries(one, one), probe=False)
    assert await reporter.deliver(entries(one, two), probe=False) == [Delivered(), Delivered()]
    assert [row["request_id"] for row in rows(path)] == ["one", "two"]
    await reporter.aclose()


async def test_a_table_that_was_there_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE old (id INTEGER PRIMARY KEY, request_id TEXT, api_key TEXT, total_tokens INTEGER)")
        )
        connection.execute(text("INSERT INTO old (request_id) VALUES ('dup'), ('dup')"))
    engine.dispose()
    reporter = sink(path, "old")
    one = make_event("one")
    for _ in range(2):
        assert await reporter.deliver(entries(one), probe=False) == [Delivered()]
    assert [(row["request_id"], row["total_tokens"]) for row in rows(path, "old")] == [
        ("dup", None),
        ("dup", None),
        ("one", 12),
    ]
    await reporter.aclose()


async def test_one_row_that_cannot_be_kept_does_not_hold_up_the_others(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        checked = "CREATE TABLE t (id INTEGER PRIMARY KEY, request_id TEXT UNIQUE, status_code INTEGER CHECK ("
        connection.execute(text(checked + "status_code < 500))"))
    engine.dispose()
    reporter = sink(path, "t")
    some = entries(*[make_event(f"r{n}", status_code=599 if n == 5 else 200) for n in range(10)])
    outcomes = await reporter.deliver(some, probe=False)
    assert [type(outcome) for outcome in outcomes] == [Failed if n == 5 else Delivered for n in range(10)]
    assert len(rows(path, "t")) == 9
    await reporter.aclose()


async def test_a_table_that_vanishes_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    reporter = sink(path)
    await reporter.deliver(entries(make_event("one")), probe=False)
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE usage_records"))
    engine.dispose()
    assert isinstance((await reporter.deliver(entries(make_event("two")), probe=False))[0], Failed)
    assert await reporter.deliver(entries(make_event("two")), probe=False) == [Delivered()]
    await reporter.aclose()


async def test_values_that_do_not_fit_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    reporter = sink(path, api_key="masked")
    long = "x" * 1000
    event = make_event("one", model="m\0" + long, user_id=long, backend_url=long, total_tokens=1 << 53)
    assert await reporter.deliver(entries(event), probe=False) == [Delivered()]
    (row,) = rows(path)
    assert (len(row["model"]), len(row["user_id"]), len(row["backend_url"])) == (200, 64, 256)
    assert "\0" not in row["model"]
    assert (row["total_tokens"], row["api_key"]) == ((1 << 31) - 1, "key_***6789")
    await reporter.aclose()


async def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    database = ReporterDatabaseSettings(driver="postgres", dsn="postgres://nobody:secret@127.0.0.1:1/none")
    reporter = DatabaseSink(ReporterSettings(name="sql", type="database", database=database))
    outcomes = await reporter.deliver(entries(make_event("a"), make_event("b")), probe=False)
    assert all(isinstance(outcome, Failed) for outcome in outcomes)
    assert "secret" not in str(outcomes)
    await reporter.aclose()
