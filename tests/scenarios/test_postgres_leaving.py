"""Clients leave while PostgreSQL answers their reservation: nothing stays held, and the records say that they left."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.databases import postgres_database
from tests.support.departures import leave
from tests.support.processes import KEY, Gateway, Sim, simulated, until
from tests.support.shared_ledger import WAITS_FOR_A_LOCK, check_books, check_usage, query
from zuebee.ledger.postgres.spool import Pending
from zuebee.schema.prepare import prepare

RIGHT = {(200, "complete", ""), (499, "client_gone", "client_closed_request")}


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


def test_two_thousand_who_leave_take_nothing_along(url: str, tmp_path: Path) -> None:
    seen = asyncio.run(leave(url, tmp_path, 2_000, 1))
    assert seen.left > 500
    assert seen.leaked == 0
    assert set(seen.records) == RIGHT
    check_books(url)
    check_usage(url)


def test_a_committer_that_is_told_too_late_would_be_seen(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_it(self: Pending) -> None:
        self.abandoned = True

    monkeypatch.setattr(Pending, "leave", leave_it)
    assert asyncio.run(leave(url, tmp_path, 2_000, 2)).leaked


@pytest.mark.proof
def test_ten_thousand_who_leave_take_nothing_along(url: str, tmp_path: Path) -> None:
    seen = asyncio.run(leave(url, tmp_path, 10_000, 3))
    print(f"\nof {seen.asked:,} reservations {seen.left:,} were left, {seen.leaked} holds stayed open: {seen.records}")
    assert seen.leaked == 0
    assert set(seen.records) == RIGHT
    check_books(url)


@pytest.mark.parametrize("who", ["the gateway", "the client"])
def test_the_record_says_who_ended_a_request_whose_reservation_was_under_way(
    url: str, tmp_path: Path, who: str
) -> None:
    with simulated(tmp_path / "sim") as sim, ThreadPoolExecutor(1) as pool:
        gateway = Gateway(tmp_path / "a", config_on(url, sim, tmp_path / "a"))
        assert ask(gateway.url, HELLO).status == 200
        with psycopg.connect(url) as rival:
            rival.execute("SELECT FROM ledger_balances FOR UPDATE")
            with Client(gateway.url) as client:
                asked = pool.submit(client.ask, HELLO)
                until(lambda: query(url, WAITS_FOR_A_LOCK) == [(1,)], "the reservation waits")
                if who == "the client":
                    client.hang_up()
                    assert asked.exception() is not None
                gateway.send_signal(signal.SIGTERM)
                if who == "the gateway":
                    answer = asked.result()
                    assert (answer.status, answer.code) == (503, "shutting_down")
            rival.rollback()
        assert gateway.wait(20) == 0
    [record] = query(
        url, "SELECT status, termination_reason, code FROM usage_records WHERE termination_reason <> 'complete'"
    )
    assert record == (
        (503, "shutdown", "shutting_down") if who == "the gateway" else (499, "client_gone", "client_closed_request")
    )
    assert query(url, "SELECT count(*) FROM ledger_holds") == [(0,)]
    check_books(url)


def config_on(url: str, sim: Sim, folder: Path) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "api_keys": [{"key": KEY, "name": "test", "total_quota": 100_000}],
        "store": {"url": url, "spool_path": str(folder / "spool.jsonl"), "timeout": "20s"},
        "shutdown": {"grace": "0s", "drain": "300ms"},
    }
