from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from tests.support.usage import make_store
from zuebee.lib.sql.database import Database
from zuebee.schema.tables import usage_records
from zuebee.usage import report
from zuebee.usage.report import Filter, GroupBy, GroupTotals, Pages, money

DAY_S = 86400
NOW_S = 1_800_000_000.5  # 2027-01-15T08:00:00.5Z


def record(request_id: str = "r", **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": request_id,
        "at_s": NOW_S,
        "key_id": "key_1",
        "key_name": "mine",
        "user_id": "me",
        "team_id": "team",
        "organization_id": "org",
        "plan": "pro",
        "priority": "normal",
        "model": "m",
        "method": "POST",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "termination_reason": "complete",
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "cached_tokens": 2,
        "usage_source": "provider",
        "cost_nano": 1_500_000,
        "duration_ms": 12.5,
    }
    return {**fields, **changes}


RECORDS = [
    record("1"),
    record("2", user_id="you", model="m%2", cost_nano=9_000_000),
    record("3", at_s=NOW_S - DAY_S, key_id="key_2", key_name="other", team_id="b", organization_id="o2"),
    record("4", at_s=NOW_S + 3600, status=502, prompt_tokens=None, completion_tokens=None, cached_tokens=None,
           cost_nano=0, plan="free", model="n-1"),
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = make_store(f"sqlite:///{tmp_path}/store.db")
    database.call(lambda connection: connection.execute(insert(usage_records), RECORDS))
    yield database
    database.close()


def totals(store: Database, *by: GroupBy, **chosen: Any) -> list[GroupTotals]:
    return store.call(lambda connection: report.totals(connection, Filter(**chosen), by))


@pytest.mark.requirement("A107")
def test_totals_of_all(store: Database) -> None:
    assert totals(store) == [GroupTotals((), 4, 1, 21, 15, 36, 6, 12_000_000)]


@pytest.mark.requirement("A107")
@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (("key",), {("mine",): 3, ("other",): 1}),
        (("user",), {("me",): 3, ("you",): 1}),
        (("team",), {("team",): 3, ("b",): 1}),
        (("organization",), {("org",): 3, ("o2",): 1}),
        (("plan",), {("pro",): 3, ("free",): 1}),
        (("model",), {("m",): 2, ("m%2",): 1, ("n-1",): 1}),
        (("endpoint",), {("/v1/chat/completions",): 4}),
        (("day",), {("2027-01-14",): 1, ("2027-01-15",): 3}),
        (("hour",), {("2027-01-14T08:00Z",): 1, ("2027-01-15T08:00Z",): 2, ("2027-01-15T09:00Z",): 1}),
        (("day", "user"), {("2027-01-14", "me"): 1, ("2027-01-15", "me"): 2, ("2027-01-15", "you"): 1}),
    ],
    ids=str,
)
def test_groups(store: Database, by: tuple[GroupBy, ...], groups: dict[tuple[str, ...], int]) -> None:
    assert {each.group: each.requests for each in totals(store, *by)} == groups


def test_order(store: Database) -> None:
    assert [each.group[0] for each in totals(store, "day")] == ["2027-01-14", "2027-01-15"]
    assert [each.group[0] for each in totals(store, "user")] == ["you", "me"], "the dearest first"


@pytest.mark.requirement("A107")
@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ({"key": "key_2"}, "3"),
        ({"key": "mine"}, "124"),
        ({"user": "you"}, "2"),
        ({"team": "b"}, "3"),
        ({"organization": "org"}, "124"),
        ({"plan": "free"}, "4"),
        ({"model": "m"}, "13"),
        ({"model": "m*"}, "123"),
        ({"model": "m%*"}, "2"),
        ({"model": "*"}, "1234"),
        ({"since_s": NOW_S}, "124"),
        ({"until_s": NOW_S}, "3"),
        ({"since_s": NOW_S, "until_s": NOW_S + 1, "user": "me"}, "1"),
        ({"user": "' OR 1=1 --"}, ""),
        ({"model": "x' UNION SELECT 1 --*"}, ""),
    ],
    ids=str,
)
def test_filters(store: Database, chosen: dict[str, Any], ids: str) -> None:
    found = store.call(Pages(Filter(**chosen), "USD").read)
    assert found is not None
    assert "".join(row["request_id"] for row in found) == ids
    assert totals(store, **chosen)[0].requests == len(ids)


def test_pages(store: Database) -> None:
    pages = Pages(Filter(), "USD", rows_at_once=3)
    assert [[row["request_id"] for row in store.call(pages.read) or []] for _ in range(2)] == [["1", "2", "3"], ["4"]]
    assert store.call(pages.read) is None
    first = store.call(Pages(Filter(), "USD").read)
    assert first is not None
    assert first[0]["timestamp"] == "2027-01-15T08:00:00.500Z"
    assert (first[0]["cost_nano"], first[0]["currency"]) == (1_500_000, "USD")


@pytest.mark.slow
def test_totals_beyond_64_bits_are_exact(store: Database) -> None:
    most = (1 << 53) - 1
    for number in range(1500):
        row = {"request_id": f"much{number}", "key_name": "much", "cost_nano": most, "prompt_tokens": most}
        store.call(lambda connection, row=row: connection.execute(insert(usage_records).values(**row)))
    found = totals(store, key="much")[0]
    assert (found.cost_nano, found.prompt_tokens) == (1500 * most, 1500 * most)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.00"), (1, "0.000000001"), (1_500_000_000, "1.50"), (12_000_000_000, "12.00"), (1_234_000_000, "1.234")],
)
def test_money(nano: int, text: str) -> None:
    assert money(nano) == text
