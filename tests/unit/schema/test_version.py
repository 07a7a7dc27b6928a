import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import SOURCES
from zuebee.schema import migrate, version
from zuebee.schema.version import (
    HEAD,
    SchemaTooNew,
    StoreUnreachable,
    StoreUnreadable,
    current_version,
    prepare,
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


def test_a_new_store_gets_the_newest_schema(store: Path) -> None:
    assert current_version(str(store)) == HEAD
    prepare(str(store))
    assert current_version(str(store)) == HEAD


def test_a_start_with_nothing_to_do_loads_no_migrations(store: Path) -> None:
    code = (
        "import sys; from zuebee.schema.version import prepare; prepare(sys.argv[1]);"
        "print(sorted({'alembic', 'sqlalchemy', 'psycopg'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(store)]
    environment = {"PYTHONPATH": SOURCES}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "[]\n"


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


def test_a_damaged_page_is_seen(store: Path) -> None:
    change(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(store.read_bytes())
    page_bytes = int.from_bytes(content[16:18], "big")
    for page in range(2, len(content) // page_bytes):
        content[page * page_bytes : page * page_bytes + 64] = b"\xff" * 64
    store.write_bytes(content)
    with pytest.raises(StoreUnreadable, match="damaged"):
        prepare(str(store))


def test_a_large_file_is_not_read_whole_at_each_start(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "CHECKED_BYTES", 1)
    monkeypatch.setattr(version, "check_whole", None)
    prepare(str(store))


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    change(path, "CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('ae1027a6')")
    with pytest.raises(StoreUnreadable, match="another program"):
        prepare(str(path))


def test_a_table_that_is_in_the_way_is_named(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    change(path, "CREATE TABLE keys (id TEXT)")
    with pytest.raises(StoreUnreadable, match="keys already exists"):
        prepare(str(path))
    assert current_version(str(path)) == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnreadable, match="file"):
        prepare(str(tmp_path / "file" / "zuebee.db"))


def test_a_locked_file_is_busy_and_not_broken(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "CONNECT_TIMEOUT_S", 0.01)
    holder = sqlite3.connect(store, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnreachable, match="locked"):
        prepare(str(store))
    holder.close()


def test_no_answer_says_nothing_of_the_address() -> None:
    with pytest.raises(StoreUnreachable) as failure:
        prepare("postgresql://someone:sesame@127.0.0.1:1/zuebee?connect_timeout=1")
    assert "sesame" not in str(failure.value)
    assert "127.0.0.1" not in str(failure.value)
