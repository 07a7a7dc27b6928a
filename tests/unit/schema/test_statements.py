from pathlib import Path

from zuebee.schema.prepare import NEW_FILE, prepare
from zuebee.schema.statements import new_file


def test_a_new_file_is_what_the_migrations_make(tmp_path: Path) -> None:
    assert NEW_FILE.read_text() == new_file(tmp_path), "run `make docs`"


def test_a_file_made_at_once_is_like_one_that_was_migrated(tmp_path: Path) -> None:
    prepare(str(tmp_path / "made.db"))
    (tmp_path / "made.db").rename(tmp_path / "migrated.db")
    assert new_file(tmp_path) == NEW_FILE.read_text()
