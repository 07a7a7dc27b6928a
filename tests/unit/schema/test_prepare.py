import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.starts import SOURCES
from zuebee.schema import prepare as preparing
from zuebee.schema.prepare import prepare
from zuebee.schema.version import HEAD, StoreUnreadable, current_version


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "for it" / "zuebee.db"
    prepare(str(path))
    return path


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_new_store_gets_the_newest_schema(store: Path) -> None:
    assert current_version(str(store)) == HEAD
    prepare(str(store))
    assert current_version(str(store)) == HEAD


def test_a_start_with_nothing_to_do_loads_no_migrations(store: Path) -> None:
    code = (
        "import sys; from zuebee.schema.prepare import prepare; prepare(sys.argv[1]);"
        "print(sorted({'alembic', 'sqlalchemy', 'psycopg'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(store)]
    environment = {"PYTHONPATH": SOURCES}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "[]\n"


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
    monkeypatch.setattr(preparing, "check_whole", None)
    prepare(str(store), checked_bytes=1)


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
