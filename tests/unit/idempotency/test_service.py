import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection

from tests.support.fakes import make_job
from tests.support.keepers import ANSWER, CALLER, Keeper, Keepers, KeeperSuite, code, keeper
from zuebee.idempotency.service import DatabaseIdempotencyStore
from zuebee.idempotency.store import Grouped
from zuebee.lib.sql.database import Database
from zuebee.schema.tables import kept_answers, metadata

T = TypeVar("T")


@pytest.fixture
def keepers(tmp_path: Path) -> Iterator[Keepers]:
    made: list[Keeper] = []

    def make(**options: Any) -> Keeper:
        made.append(keeper(f"sqlite:///{tmp_path / 'kept.db'}", **options))
        return made[-1]

    yield make
    for one in made:
        one.database.close()


class TestOnSqlite(KeeperSuite):
    pass


class Counting(Grouped):
    """Counts how often it is asked."""

    asked = 0

    async def run(self, work: Callable[[Connection], T]) -> T:
        self.asked += 1
        return await super().run(work)


async def test_a_broken_database_refuses_and_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = Database(f"sqlite:///{tmp_path / 'no' / 'where.db'}", timeout_s=1)
    grouped = Counting(nowhere, timeout_s=1, writers=1)
    broken = DatabaseIdempotencyStore(grouped, retention_s=1, max_bytes=1)
    ticket = broken.ticket(CALLER, b"key", make_job())
    with caplog.at_level(logging.ERROR, "zuebee.idempotency"):
        assert code(await broken.find(ticket)) == "idempotency_unavailable"
        assert code(await broken.claim(ticket)) == "idempotency_unavailable"
        await broken.keep(ticket, ANSWER)
        await broken.free(ticket)
    assert broken.failures == 4
    assert str(tmp_path) not in caplog.text
    (tmp_path / "no").mkdir()
    nowhere.call(lambda connection: metadata.create_all(connection, [kept_answers]))
    grouped.asked = 0
    await broken.tend()
    assert grouped.asked == 1, "that the key is free is told, and nothing is renewed"
    await broken.aclose()


async def test_leases_are_renewed_while_it_runs(keepers: Keepers) -> None:
    quick = {"lease_s": 0.2, "renew_interval_s": 0.02}
    keep, other = keepers(**quick), keepers(**quick)
    keep.start()
    keep.start()
    ticket = keep.ticket(CALLER, b"key", make_job())
    await keep.claim(ticket)
    await asyncio.sleep(0.4)
    assert code(await other.find(ticket)) == "idempotency_in_progress"
    await keep.aclose()
    await asyncio.sleep(0.3)
    assert code(await other.find(ticket)) == "idempotency_answer_lost"
