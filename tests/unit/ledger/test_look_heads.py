"""Whoever cuts off the end of the ledger, and makes the rest fit, is seen by what was noted, or was kept elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import opened
from tests.support.databases import postgres_database
from tests.support.ledger_history import change, write_history
from tests.support.shared_ledger import empty, post, query, reserve, store_on
from zuebee.contracts.admission import Budget
from zuebee.ledger.audit import heads_from, heads_of, heads_text, missing, reading, verify
from zuebee.ledger.invariants import Violation
from zuebee.ledger.sqlite import store
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.schema.prepare import prepare

BUDGET = (Budget("key:k/tokens/never", "tokens", "never", 1000),)


def wrong(store: str) -> list[Violation]:
    with reading(store) as connection:
        return list(verify(connection))


def cut(batch: int, owner: int = 1) -> list[str]:
    """The last batch of an owner, with all that tells of it."""
    gone = f"(SELECT hold FROM ledger_entries WHERE batch = {batch} AND owner = {owner})"
    figures = {
        "granted": "CASE kind WHEN 'grant' THEN {0} WHEN 'withdraw' THEN -{0} ELSE 0 END",
        "held": "CASE WHEN kind IN ('reserve', 'extend') THEN {0} WHEN kind IN ('post', 'void', 'expire') THEN -{1}"
        " ELSE 0 END",
        "used": "CASE WHEN kind IN ('post', 'expire', 'overdraft', 'adjust') THEN {0} ELSE 0 END",
        "overdraft": "CASE WHEN kind IN ('overdraft', 'adjust') THEN {0} ELSE 0 END",
        "limited": "CASE WHEN hold NOT LIKE '%@%' OR hold LIKE '%/before' THEN 0 WHEN kind = 'grant' THEN {0}"
        " WHEN kind = 'withdraw' THEN -{0} ELSE 0 END",
    }

    def less(name: str) -> str:
        of_tokens = figures[name].format("e.tokens", "e.released_tokens")
        of_money = figures[name].format("e.cost_nano", "e.released_cost_nano")
        amount = f"CASE b.unit WHEN 'tokens' THEN {of_tokens} ELSE {of_money} END"
        return (
            f"{name} = {name} - (SELECT coalesce(sum({amount}), 0)"
            f" FROM ledger_entries e JOIN ledger_paths p ON p.id = e.path WHERE e.batch = {batch} AND e.owner = {owner}"
            " AND ',' || p.balances || ',' LIKE '%,' || b.id || ',%')"
        )

    return [
        f"UPDATE ledger_balances AS b SET {', '.join(map(less, figures))}",
        f"DELETE FROM usage_records WHERE request_id IN {gone}",
        f"DELETE FROM usage_outbox WHERE event_id IN {gone} OR substr(event_id, 1, length(event_id) - 5) IN {gone}",
        f"DELETE FROM ledger_holds WHERE hold IN {gone}",
        f"DELETE FROM ledger_entries WHERE batch = {batch} AND owner = {owner}",
        f"DELETE FROM ledger_batches WHERE sequence = {batch} AND owner = {owner}",
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=5)
    return tmp_path / "z.db"


def test_an_end_that_was_cut_off_is_seen_though_the_rest_adds_up(path: Path) -> None:
    assert wrong(str(path)) == []
    change(path, *cut(5), *cut(4))
    [found] = wrong(str(path))
    assert (found.invariant, found.text) == (
        "I5", "owner 1: its chain ends at batch 3, and had come to 5: its end was cut off",
    )  # fmt: skip


def test_a_whole_chain_that_is_gone_is_seen(path: Path) -> None:
    change(path, *(statement for batch in range(5, 0, -1) for statement in cut(batch)))
    assert [found.text for found in wrong(str(path))] == [
        "owner 1: its chain ends at batch 0, and had come to 5: its end was cut off"
    ]


def test_the_end_of_one_chain_that_others_came_after_leaves_a_gap(path: Path) -> None:
    store = SqliteStore(str(path), reporters=(), currency="USD", retention_days=0)
    store.start("next", 1.0)
    store.close()
    change(
        path,
        "UPDATE ledger_entries SET id = id + 1 WHERE id = (SELECT max(id) FROM ledger_entries)",
    )
    assert [found.text for found in wrong(str(path))] == ["the entries 77 to 77 are gone"]


def test_what_is_noted_survives_a_kill_and_the_next_start_notes_the_rest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed had noted its first batches; its heir notes all of them."""
    change(path, "UPDATE ledger_owners SET ended_at_s = 0", "UPDATE counters SET value = 1 WHERE name = 'chain/1'")
    store = SqliteStore(str(path), reporters=(), currency="USD", retention_days=0)
    store.start("heir", 1.0)
    store.close()
    change(path, *cut(5))
    assert [found.invariant for found in wrong(str(path))] == ["I5"]


def test_a_store_of_before_is_noted_by_the_first_start(path: Path) -> None:
    change(path, "DELETE FROM counters WHERE name LIKE 'chain/%'")
    store = SqliteStore(str(path), reporters=(), currency="USD", retention_days=0)
    store.start("new version", 1.0)
    store.close()
    change(path, *cut(5))
    assert [found.invariant for found in wrong(str(path))] == ["I5"]


def test_notes_are_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[object] = []
    head_name = store.head_name
    monkeypatch.setattr(store, "head_name", lambda owner: notes.append(owner) or head_name(owner))
    write_history(tmp_path / "z.db", rounds=50)
    assert len(notes) <= 4, "with the first batch, once in a while, and at the end"


def test_a_payment_that_was_taken_out_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    prepare(str(path))
    with opened(f"sqlite:///{path}") as store:
        store.acme()
        store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})
        store.payments.top_up("organization", "acme", payment_id="p1", amount=500)
    assert wrong(str(path)) == []
    change(path, *cut(1))
    assert [found.invariant for found in wrong(str(path))] == ["I5"]


# --- kept elsewhere ---


def test_heads_that_were_kept_say_what_was_changed_since(path: Path) -> None:
    with reading(str(path)) as connection:
        kept = heads_text(heads_of(connection))
    store = SqliteStore(str(path), reporters=(), currency="USD", retention_days=0)
    store.start("goes on", 1.0)
    store.close()
    with reading(str(path)) as connection:
        assert list(missing(connection, heads_from(kept))) == []
    change(path, "DELETE FROM counters", *cut(5))
    assert wrong(str(path)) == [], "a thorough one: nothing in the store tells"
    with reading(str(path)) as connection:
        [found] = missing(connection, heads_from(kept))
        assert found.text == "owner 1: batch 5 was there once, and is gone"
    change(path, "INSERT INTO ledger_batches (owner, sequence, entries, hash) VALUES (1, 5, 1, 'x')")
    with reading(str(path)) as connection:
        [found] = missing(connection, heads_from(kept))
        assert found.text == "owner 1: batch 5 once had another hash"


@pytest.mark.parametrize("text", ["x", '{"owner": 1}', '{"owner": 1, "sequence": 2, "hash": "a", "more": 1}', "[1]"])
def test_a_file_that_has_no_heads_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        heads_from(text)


# --- records without entries ---


def test_a_record_of_a_key_with_a_budget_that_was_never_held_is_seen(path: Path) -> None:
    late_s = clock.wall_s() + 7200
    change(
        path,
        "INSERT INTO keys (id, digest, lineage) VALUES ('k', 'd', 'k')",
        "INSERT INTO budgets (account, scope, scope_id, unit, period, amount, created_at_s)"
        f" VALUES ('key:k/tokens/daily', 'key', 'k', 'tokens', 'daily', 1000, {late_s - 3601})",
        f"INSERT INTO usage_records (request_id, at_s, key_id, prompt_tokens) VALUES ('ghost', {late_s}, 'k', 5)",
        f"INSERT INTO usage_records (request_id, at_s, key_id, prompt_tokens) VALUES ('before', {late_s - 5}, 'k', 5)",
        f"INSERT INTO usage_records (request_id, at_s, key_id) VALUES ('refused', {late_s}, 'k')",
        f"INSERT INTO usage_records (request_id, at_s, key_id, prompt_tokens) VALUES ('free', {late_s}, 'f', 5)",
    )
    [found] = wrong(str(path))
    assert (found.invariant, found.account) == ("I6", "ghost")


# --- PostgreSQL ---


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres_database() as url:
        prepare(url)
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("end", ["it ends", "it sweeps", "it is silent"])
def test_on_postgresql_too(url: str, end: str) -> None:
    empty(url)
    one = store_on(url)
    for number in range(4):
        one.apply(2 * number + 1, [reserve(f"r{number}", BUDGET, 10)])
        one.apply(2 * number + 2, [post(f"r{number}", 10)])
    if end == "it ends":
        one.end()
    elif end == "it sweeps":
        one.sweep()
    else:
        one.disconnect()
        query(url, "UPDATE ledger_owners SET seen_at_s = 1 RETURNING id")
        store_on(url).sweep()
    assert wrong(url) == []
    assert query(url, "SELECT value FROM counters WHERE name = 'chain/1'") == [(8,)]
    with reading(url) as connection:
        kept = heads_of(connection)
    assert [(head.owner, head.sequence) for head in kept] == [(1, 8)]
    for statement in cut(8):
        query(url, f"{statement} RETURNING 1")
    for statement in cut(7):
        query(url, f"{statement} RETURNING 1")
    assert [found.text for found in wrong(url)] == [
        "owner 1: its chain ends at batch 6, and had come to 8: its end was cut off"
    ]
    with reading(url) as connection:
        assert len(list(missing(connection, kept))) == 1
