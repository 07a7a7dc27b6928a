"""Kept answers on a real PostgreSQL, shared by several processes."""

from collections.abc import Iterator

import pytest

from tests.support.databases import postgres_database
from tests.support.keepers import Keepers, KeeperSuite, keeper
from zuebee.answers.service import AnswerKeeper
from zuebee.kit.database import database_url


@pytest.fixture
def keepers() -> Iterator[Keepers]:
    made: list[AnswerKeeper] = []
    with postgres_database() as url:

        def make() -> AnswerKeeper:
            made.append(keeper(database_url("postgres", url)))
            return made[-1]

        yield make
        for one in made:
            one._database._database.close()


class TestOnPostgres(KeeperSuite):
    pass
