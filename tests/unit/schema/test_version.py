import sqlite3
from pathlib import Path

import pytest

from zuebee.schema import migrate
from zuebee.schema.prepare import prepare
from zuebee.schema.version import (
    HEAD,
    SchemaTooNew,
    StoreUnreachable,
    StoreUnreadable,
    current_version,
)


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "for it" / "zuebee.db"
    prepare(str(path))
    return path


def test_the_newest_migration_is_the_version_the_code_knows() -> None:
    assert migrate.scripts().get_current_head() == f"{HEAD:04}"


def test_a_store_that_is_not_there_has_version_0(tmp_path: Path) -> None:
    assert current_version(str(tmp_path / "new.db")) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_newer_store_is_refused(store: Path) -> None:
    change(store, f"UPDATE alembic_version SET version_num = '{HEAD + 1:04}'")
    before = store.read_bytes()
    with pytest.raises(SchemaTooNew, match=f"schema {HEAD + 1} .* knows {HEAD}"):
        prepare(str(store))
    assert store.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 100, b"\0" * 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "zuebee.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnreadable, match=r"zuebee\.db"):
        prepare(str(path))
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    change(path, "CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('ae1027a6')")
    with pytest.raises(StoreUnreadable, match="another program"):
        prepare(str(path))


def test_a_locked_file_is_busy_and_not_broken(store: Path) -> None:
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnreachable, match="locked"):
        current_version(str(store), timeout_s=0.01)
    holder.close()


def test_no_answer_says_nothing_of_the_address() -> None:
    with pytest.raises(StoreUnreachable) as failure:
        prepare("postgresql://someone:sesame@127.0.0.1:1/zuebee?connect_timeout=1")
    assert "sesame" not in str(failure.value)
    assert "127.0.0.1" not in str(failure.value)
