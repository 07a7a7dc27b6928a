import sqlite3
from pathlib import Path

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from zuebee.schema.prepare import prepare
from zuebee.schema.tables import metadata


def difference(connection: sqlalchemy.Connection) -> list[object]:
    return compare_metadata(MigrationContext.configure(connection), metadata)  # type: ignore[return-value]


def test_the_migrations_make_the_tables_as_they_are_described(tmp_path: Path) -> None:
    prepare(str(tmp_path / "zuebee.db"))
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/zuebee.db")
    with engine.begin() as connection:
        assert difference(connection) == []
        connection.exec_driver_sql("ALTER TABLE keys ADD COLUMN forgotten TEXT")
        assert difference(connection), "a column that only one of them has is seen"
        connection.rollback()
    engine.dispose()


def test_the_migrations_make_the_same_statements_as_the_description(tmp_path: Path) -> None:
    prepare(str(tmp_path / "migrated.db"))
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/described.db")
    metadata.create_all(engine)
    engine.dispose()
    described = statements(tmp_path / "described.db")
    migrated = statements(tmp_path / "migrated.db")
    migrated.pop("alembic_version")
    assert migrated == described


def statements(path: Path) -> dict[str, str]:
    """What each table and index was made with, without blanks and quotes."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: "".join(sql.replace('"', "").split()) for name, sql in rows}
