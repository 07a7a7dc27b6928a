"""A store where versions before looked for it is not followed by a second one."""

from contextlib import chdir
from pathlib import Path

import pytest

from zuebee.app.connect import left_behind, prepare_store
from zuebee.config.paths import rooted
from zuebee.config.settings_billing import StoreSettings


@pytest.mark.parametrize(
    ("store", "file"),
    [
        (StoreSettings(path="data/z.db"), "data/z.db"),
        (StoreSettings(url="postgresql://h/x", spool_path="s.jsonl"), "s.jsonl"),
    ],
)
def test_what_was_left_behind_stops_a_start(tmp_path: Path, store: StoreSettings, file: str) -> None:
    new = rooted(store, str(tmp_path / "conf"))
    with chdir(tmp_path):
        assert left_behind(store, new) == []
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
        assert left_behind(store, new) == [], "an empty file has nothing to lose"
        Path(file).write_text("something")
        with pytest.raises(OSError, match=r"Move it there .*, or write") as told:
            left_behind(store, new)
        assert str(tmp_path / file) in str(told.value)
        (tmp_path / "conf" / file).parent.mkdir(parents=True)
        (tmp_path / "conf" / file).write_text("newer")
        [warning] = left_behind(store, new)
        assert "is not used" in warning
        assert left_behind(store, store) == [], "the folder of the file is that of the process"
        (tmp_path / "conf" / file).unlink()
        (tmp_path / "conf" / file).symlink_to(tmp_path / file)
        assert left_behind(store, new) == [], "both names lead to the same file"
        whole = StoreSettings(path=str(tmp_path / "data" / "z.db"))
        assert left_behind(whole, rooted(whole, str(tmp_path / "conf"))) == []


def test_nothing_is_made_unless_told(tmp_path: Path) -> None:
    store = StoreSettings(path=str(tmp_path / "a" / "z.db"))
    with pytest.raises(OSError, match=f"{tmp_path}/a/z.db: there is no such file"):
        prepare_store(store, make=False)
    assert not (tmp_path / "a").exists()
    prepare_store(store)
    prepare_store(store, make=False)
