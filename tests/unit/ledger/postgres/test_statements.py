import re

import pytest
from sqlalchemy.dialects import postgresql

from zuebee.ledger.postgres import statements as sql
from zuebee.schema.tables import metadata

INSERT = re.compile(r"INSERT INTO (\w+)(?: AS t)? \(([^)]*)\)\s+(?:SELECT \* FROM unnest\((.*?)\)|VALUES)", re.DOTALL)
STATEMENTS = {name: text.strip() for name, text in vars(sql).items() if name.isupper() and isinstance(text, str)}
KINDS = {"BIGINT": "int8", "INTEGER": "int4", "TEXT": "text", "DOUBLE PRECISION": "float8", "BOOLEAN": "bool"}


@pytest.mark.parametrize("name", [name for name, text in STATEMENTS.items() if INSERT.match(text)])
def test_rows_go_into_columns_that_are_there_with_their_types(name: str) -> None:
    found = INSERT.match(STATEMENTS[name])
    assert found is not None
    table = metadata.tables[found[1]]
    columns = [table.columns[column.strip()] for column in found[2].split(",")]
    if found[3] is not None:
        given = re.findall(r"%s::(\w+)\[\]", found[3])
        wanted = [KINDS[column.type.compile(postgresql.dialect())] for column in columns]
        assert [kind.replace("int4", "int8") for kind in given] == [kind.replace("int4", "int8") for kind in wanted]


def test_records_are_the_same_with_events_and_without() -> None:
    arrays = re.compile(r"unnest\((%s.*?)\)", re.DOTALL)
    assert arrays.findall(sql.ADD_RECORDS_WITH_EVENTS)[0] == arrays.findall(sql.ADD_RECORDS)[0]
    events = re.search(r"INSERT INTO usage_outbox \(([^)]*)\)", sql.ADD_RECORDS_WITH_EVENTS)
    assert events is not None
    assert {name.strip() for name in events[1].split(",")} <= set(metadata.tables["usage_outbox"].columns.keys())


def test_only_tables_that_are_there_are_named() -> None:
    named = {
        table
        for text in STATEMENTS.values()
        for table in re.findall(r"(?:FROM|JOIN|INTO|UPDATE) ((?:ledger|usage)_\w+)", text)
    }
    assert named
    assert named <= metadata.tables.keys()


def test_balances_are_locked_in_one_order() -> None:
    assert "ORDER BY id FOR UPDATE" in sql.LOCK_BALANCES
