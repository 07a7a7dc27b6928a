"""Gateways that share a PostgreSQL: one budget for all of them, whoever dies."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.pgbouncer import BOTH_WAYS, database_by
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.promises import within
from tests.support.shared_ledger import check_books, check_usage, query
from tests.support.tcp_proxy import proxy_before
from zuebee.ledger.audit import verify
from zuebee.lib.sql.database import Database
from zuebee.lib.sql.dsn import database_url

HOLD_S = 2
PATIENT = "10s"
"""How long the store may take where that is not the point: a busy machine is no outage."""
ASK: dict[str, Any] = {**HELLO, "max_tokens": 20}
STREAM: dict[str, Any] = {**HELLO, "max_tokens": 400, "stream": True, "sim": {"tokens": 400}}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with database_by(request) as address:
        yield address


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "100") as process:
        yield process


def check_all(url: str) -> None:
    """All that is known of the books, with what `zuebee ledger verify` looks for."""
    check_books(url)
    check_usage(url)
    database = Database(database_url("postgres", url), timeout_s=10)
    with database.engine.connect() as connection:
        assert list(verify(connection)) == []
    database.close()


def settings(folder: Path, sim: Sim, url: str, quota: int, timeout: str = "1s") -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "api_keys": [{"key": KEY, "name": "test", "total_quota": quota}],
        "store": {"url": url, "spool_path": str(folder / "spool.jsonl"), "timeout": timeout},
        "billing": {"hold_ttl": f"{HOLD_S}s", "renew_interval": "500ms"},
        "usage": None,
    }


def balance(url: str) -> tuple[int, int, int]:
    """Granted, held and used of the one account."""
    [row] = query(url, "SELECT granted, held, used FROM ledger_balances")
    return row[0], row[1], row[2]


@BOTH_WAYS
@pytest.mark.requirement("A106")
def test_two_gateways_that_start_together_share_one_budget(tmp_path: Path, sim: Sim, url: str) -> None:
    """However they share it: never more than there is, nothing stays held, and only what is too little is left."""
    quota = 2000

    def start(name: str) -> Gateway:
        folder = tmp_path / name
        return Gateway(folder, settings(folder, sim, url, quota, PATIENT))

    with ThreadPoolExecutor(32) as pool:
        gateways = list(pool.map(start, ("a", "b")))
        try:
            answers = list(pool.map(lambda n: ask(gateways[n % 2].url, ASK), range(200)))
            assert {answer.status for answer in answers} == {200, 429}
            # What was held for others in the crowd was refused, and may be free again: the rest goes one by one.
            while {answer.status for answer in answers[-2:]} != {429}:
                until(lambda: balance(url)[1] == 0, "nothing is held")
                answers.append(ask(gateways[len(answers) % 2].url, ASK))
            used = sum(answer.json["usage"]["total_tokens"] for answer in answers if answer.status == 200)
            assert balance(url) == (quota, 0, used)
            most = max(answer.json["usage"]["total_tokens"] for answer in answers if answer.status == 200)
            assert most < quota / 20
            assert quota - 2 * most < used <= quota, "all was given away that one more could use, and no more"
            assert {answer.code for answer in answers if answer.status == 429} == {"quota_exceeded"}
        finally:
            for gateway in gateways:
                assert gateway.stop() == 0
    assert query(url, "SELECT count(*) FROM ledger_owners WHERE ended_at_s > 0") == [(2,)]
    assert query(url, "SELECT sum(total_tokens)::int8 FROM usage_records") == [(used,)]
    check_all(url)


@BOTH_WAYS
@pytest.mark.requirement("A098")
def test_what_a_killed_gateway_held_is_free_again_and_long_streams_are_paid(tmp_path: Path, sim: Sim, url: str) -> None:
    with running(tmp_path / "a", settings(tmp_path / "a", sim, url, 100_000, PATIENT)) as survivor:
        dying = Gateway(tmp_path / "b", settings(tmp_path / "b", sim, url, 100_000, PATIENT))
        with Client(survivor.url) as kept, Client(dying.url) as lost:
            stream, other = kept.open(STREAM), lost.open(STREAM)
            assert stream.event()
            assert other.event()
            seen = "SELECT count(*) FROM ledger_holds WHERE progress_tokens > 20"
            until(lambda: query(url, seen) == [(2,)], "both have given a sign of life")
            dying.send_signal(signal.SIGKILL)
            dying.wait()
            answer = stream.rest()  # it takes four seconds, twice the life of a hold
        assert answer.whole
        assert answer.events[-1] == "[DONE]"
        until(lambda: balance(url)[1] == 0, "nothing is held", 20)
    kinds = query(url, "SELECT kind, count(*) FROM ledger_entries WHERE step = 1 GROUP BY kind ORDER BY kind")
    assert kinds == [("expire", 1), ("post", 1)]
    [(termination_reason, tokens)] = query(
        url, "SELECT code, total_tokens FROM usage_records WHERE usage_source = 'partial'"
    )
    assert termination_reason == "owner_lost"
    assert 20 < tokens < 400
    check_all(url)


def test_an_outage_refuses_new_requests_and_lets_running_ones_end(tmp_path: Path, sim: Sim, url: str) -> None:
    with (
        proxy_before(url) as (proxy, address),
        running(tmp_path / "a", settings(tmp_path / "a", sim, address, 100_000, PATIENT)) as gateway,
    ):
        assert ask(gateway.url, ASK).status == 200
        with Client(gateway.url) as client:
            stream = client.open(STREAM)
            assert stream.event()
            proxy.refuse()
            with within(2.0, "the refusal"):
                refused = ask(gateway.url, ASK)
            assert (refused.status, refused.code) == (503, "store_unavailable")
            answer = stream.rest()
        assert answer.whole
        assert answer.events[-1] == "[DONE]"
        until(lambda: (tmp_path / "a" / "spool.jsonl").stat().st_size, "the settlement is in the spool file")
        proxy.heal()
        until(lambda: ask(gateway.url, ASK).status == 200, "requests are let in again")
        until(lambda: balance(url)[1] == 0, "nothing is held")
        until(lambda: not (tmp_path / "a" / "spool.jsonl").stat().st_size, "the spool file is empty")
    until(lambda: query(url, "SELECT count(*) FROM ledger_holds") == [(0,)], "no hold is left")
    check_all(url)


def test_a_spool_file_that_another_process_uses_is_refused(tmp_path: Path, sim: Sim, url: str) -> None:
    config = settings(tmp_path / "a", sim, url, 1000)
    with running(tmp_path / "a", config), pytest.raises(AssertionError, match=r"store\.spool_path"):
        Gateway(tmp_path / "b", config)
