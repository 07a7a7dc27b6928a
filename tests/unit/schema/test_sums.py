import pytest
import sqlalchemy
from sqlalchemy import select

from tests.support.databases import postgres_database
from zuebee.lib.sql.database import database_url
from zuebee.schema.prepare import prepare
from zuebee.schema.sums import Sums
from zuebee.schema.tables import usage_records

COLUMNS = [usage_records.c.cost_nano, usage_records.c.prompt_tokens]
MOST = (1 << 62) - 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_sums_are_exact_beyond_64_bits_and_nothing_sums_to_0(kind: str, tmp_path: object) -> None:
    if kind == "sqlite":
        prepare(f"{tmp_path}/z.db")
        sums_are_exact(f"sqlite:///{tmp_path}/z.db")
    else:
        with postgres_database() as url:
            prepare(url)
            sums_are_exact(database_url("postgres", url))


def sums_are_exact(url: str) -> None:
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        sums = Sums(connection, COLUMNS)
        query = select(*sums.columns)
        assert sums.read(connection.execute(query).one()) == [0, 0]
        rows = [{"cost_nano": MOST, "prompt_tokens": tokens} for tokens in (MOST, None, 7)]
        connection.execute(sqlalchemy.insert(usage_records), rows)
        assert sums.read(connection.execute(query.order_by(*sums.order)).one()) == [3 * MOST, MOST + 7]
    engine.dispose()
