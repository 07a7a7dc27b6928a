"""Idempotency records on a real PostgreSQL, shared by several processes."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.databases import postgres_database
from tests.support.fakes import make_job
from tests.support.keepers import ANSWER, CALLER, Keeper, Keepers, KeeperSuite, code, keeper
from tests.support.processes import running, simulated
from tests.support.raw_http import ask, chat, eventually, request
from zuebee.lib import clock
from zuebee.lib.sql.database import database_url


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    made: list[Keeper] = []
    with postgres_database() as url:

        def make() -> Keeper:
            made.append(keeper(database_url("postgres", url)))
            return made[-1]

        yield make
        for one in made:
            one.database.close()


class TestOnPostgres(KeeperSuite):
    async def test_the_clock_is_the_database_s(self, keepers: Keepers, monkeypatch: pytest.MonkeyPatch) -> None:
        one, other = keepers(), keepers()
        ticket = one.ticket(CALLER, b"key", make_job())
        await one.claim(ticket)
        monkeypatch.setattr(clock, "wall_s", lambda: time.time() + 3600)
        assert code(await other.find(ticket)) == "idempotency_in_progress"
        assert code(await other.claim(other.ticket(CALLER, b"key", make_job()))) == "idempotency_in_progress"
        await other.tend(sweep=True)
        monkeypatch.undo()
        await one.keep(ticket, ANSWER)
        assert await other.find(ticket) == ANSWER


async def test_two_gateways_share_what_they_know(tmp_path: Path) -> None:
    with postgres_database() as url, simulated(tmp_path / "sim") as sim:
        config = {"backends": [{"url": sim.url}], "health_check": {"enabled": False}, "store": {"url": url}}
        with running(tmp_path / "a", config) as first, running(tmp_path / "b", config) as second:
            sent = request(chat(80, tokens_per_s=40), idempotency_key="shared")
            begun = asyncio.ensure_future(ask(first.port, sent))
            await eventually(lambda: sim.stats()["requests_started"] == 1, "it runs")
            busy = await ask(second.port, sent)
            assert (busy.status, busy.error["code"]) == (409, "idempotency_in_progress")
            assert (busy.headers["retry-after"], busy.headers["x-should-retry"]) == ("1", "true")
            other = await ask(second.port, request(chat(81), idempotency_key="shared"))
            assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
            answer = await begun
            again = await ask(second.port, sent)
            assert (again.body, again.headers["idempotent-replayed"]) == (answer.body, "true")
            assert sim.stats()["requests_started"] == 1

            lost = request(chat(500, tokens_per_s=10), idempotency_key="lost")
            cut = asyncio.ensure_future(ask(first.port, lost))
            await eventually(lambda: sim.stats()["requests_started"] == 2, "it runs")
            first.send_signal(signal.SIGKILL)
            await asyncio.to_thread(first.wait)
            await asyncio.gather(cut, return_exceptions=True)
            assert (await ask(second.port, lost)).status == 409
            with psycopg.connect(url, autocommit=True) as connection:
                leases = connection.execute(
                    "UPDATE kept_answers SET expires_at_s = expires_at_s - 20 WHERE state = 'running'"
                )
                assert leases.rowcount == 1
            again = await ask(second.port, lost)
            assert (again.status, again.error["code"]) == (409, "idempotency_answer_lost")
            assert sim.stats()["requests_started"] == 2
