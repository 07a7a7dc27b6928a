import sqlite3
from pathlib import Path
from typing import Any

import pytest

from zuebee.contracts.admission import ANONYMOUS, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.kit import clock
from zuebee.usage.recorder import ROWS_PER_STATEMENT, SCHEMA_VERSION, UsageStore

DAY_S = 86400.0


def settled(request_id: str = "r", **changes: Any) -> Settlement:
    principal = Principal("key_1", "mine", "me")
    fields: dict[str, Any] = {
        "request_id": request_id,
        "method": "POST",
        "route": "/v1/chat/completions",
        "address": "10.0.0.1",
        "at_s": clock.wall_s(),
        "status": 200,
        "ending": "complete",
        "principal": principal,
        "grant": Grant(principal),
        "model": "m",
        "backend": "a",
        "attempts": 1,
        "usage": Usage(7, 5, "provider"),
        "duration_s": 0.5,
    }
    return Settlement(**{**fields, **changes})


def rows(path: Path, columns: str = "*") -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT {columns} FROM usage_records ORDER BY request_id").fetchall()
    finally:
        connection.close()


def keep(path: Path, *settlements: Settlement, retention_days: int = 0) -> None:
    store = UsageStore(str(path), retention_days)
    for settlement in settlements:
        store.record(settlement)
    store.close()
    assert store.dropped == 0


@pytest.mark.requirement("A252", "A295")
def test_a_request_leaves_one_row(tmp_path: Path) -> None:
    path = tmp_path / "made" / "for it" / "usage.db"
    keep(path, settled(at_s=1_800_000_000.5, stream=True, first_token_s=0.25))
    assert rows(path, "timestamp, key_id, key_name, user_id, model, endpoint, is_stream, status, ending") == [
        ("2027-01-15T08:00:00.500Z", "key_1", "mine", "me", "m", "/v1/chat/completions", 1, 200, "complete")
    ]
    assert rows(path, "prompt_tokens, completion_tokens, total_tokens, usage_source, duration_ms, first_token_ms") == [
        (7, 5, 12, "provider", 500.0, 250.0)
    ]


def test_what_is_not_known_is_null_and_not_0(tmp_path: Path) -> None:
    keep(tmp_path / "u.db", settled(usage=None))
    wanted = [(None, None, None, None, None)]
    assert (
        rows(tmp_path / "u.db", "prompt_tokens, completion_tokens, total_tokens, usage_source, first_token_ms")
        == wanted
    )


def test_who_was_never_let_in_leaves_no_row(tmp_path: Path) -> None:
    keep(tmp_path / "u.db", settled(grant=None, principal=ANONYMOUS))
    assert rows(tmp_path / "u.db") == []


def test_many_rows_are_all_kept(tmp_path: Path) -> None:
    count = 3 * ROWS_PER_STATEMENT + 7
    keep(tmp_path / "u.db", *(settled(f"r{n:04}", usage=Usage(n, 1, "partial")) for n in range(count)))
    assert rows(tmp_path / "u.db", "prompt_tokens") == [(n,) for n in range(count)]


def test_any_text_and_any_plausible_figure_can_be_kept(tmp_path: Path) -> None:
    nasty = "'; DROP TABLE usage_records; --\x00\n\u2028😀" + "x" * 100_000
    principal = Principal(nasty, nasty, nasty)
    figures = Usage(10**9, 10**9, "provider")
    keep(tmp_path / "u.db", settled(model=nasty, code=nasty, backend=nasty, principal=principal, usage=figures))
    assert rows(tmp_path / "u.db", "model, key_name, total_tokens") == [(nasty, nasty, 2 * 10**9)]


@pytest.mark.requirement("A253")
def test_tokens_of_a_key_since_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "u.db"
    other = Principal("key_2", "", "")
    keep(
        path,
        settled("a", at_s=0.5 * DAY_S),
        settled("b", at_s=1.5 * DAY_S),
        settled("c", at_s=1.6 * DAY_S, usage=None),
        settled("d", at_s=1.7 * DAY_S, principal=other, grant=Grant(other)),
    )
    store = UsageStore(str(path), 0)
    assert [store.tokens_since("key_1", day * DAY_S) for day in (0, 1, 2)] == [24, 12, 0]
    assert store.tokens_since("nobody", 0.0) == 0
    store.close()


@pytest.mark.parametrize(("retention_days", "kept"), [(0, ["new", "old"]), (7, ["new"])])
def test_old_rows_are_removed_only_if_wished(tmp_path: Path, retention_days: int, kept: list[str]) -> None:
    path = tmp_path / "u.db"
    keep(path, settled("old", at_s=clock.wall_s() - 8 * DAY_S))
    keep(path, settled("new"), retention_days=retention_days)
    assert rows(path, "request_id") == [(name,) for name in kept]


def test_what_is_written_survives_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "u.db"
    keep(path, settled())
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


def test_records_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "u.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(OSError, match="newer version"):
        UsageStore(str(path), 0)


def test_a_place_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        UsageStore(str(tmp_path / "file" / "u.db"), 0)
    with pytest.raises(OSError, match="unable to open"):
        UsageStore(str(tmp_path), 0)


def test_rows_wait_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "u.db"
    store = UsageStore(str(path), 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.record(settled())
    other.execute("ROLLBACK")
    other.close()
    store.close()
    assert len(rows(path)) == 1
