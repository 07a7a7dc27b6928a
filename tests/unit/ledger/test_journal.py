"""What the journal has kept is there for the next start, whole, whatever happened to the process."""

import os
from pathlib import Path

import pytest

from zuebee.ledger.sqlite import journal as journal_module
from zuebee.ledger.sqlite.journal import HALF_BYTES, Journal


def opened(path: Path) -> Journal:
    journal = Journal(str(path))
    journal.forget()
    return journal


def found(path: Path) -> list[bytes]:
    """What another process would find now, with this one still holding the file."""
    return Journal(str(path)).found


def test_a_line_is_there_as_soon_as_it_was_added(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for line in (b"one", b"", b"three" * 100):
        if line:
            assert journal.add(line)
    assert found(tmp_path / "j") == [b"one", b"three" * 100]


def test_nothing_is_taken_before_what_was_found_is_dealt_with(tmp_path: Path) -> None:
    opened(tmp_path / "j").add(b"old")
    journal = Journal(str(tmp_path / "j"))
    assert journal.found == [b"old"]
    assert not journal.add(b"new")
    journal.turn()
    assert found(tmp_path / "j") == [b"old"]
    journal.forget()
    assert found(tmp_path / "j") == journal.found == []
    assert journal.add(b"new")


def test_lines_stay_until_their_batch_is_on_disk_and_those_of_the_next_longer(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.add(b"first")
    journal.turn()
    journal.add(b"second")
    assert sorted(found(tmp_path / "j")) == [b"first", b"second"]
    journal.forget()
    assert found(tmp_path / "j") == [b"second"]
    journal.turn()
    journal.add(b"third")
    journal.forget()
    assert found(tmp_path / "j") == [b"third"]


def test_a_batch_that_never_gets_to_disk_keeps_its_lines(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.add(b"first")
    journal.turn()
    journal.add(b"second")
    journal.turn()  # the next one goes out, and nobody has said that the first is on disk
    journal.add(b"third")
    assert sorted(found(tmp_path / "j")) == [b"first", b"second", b"third"]


def test_a_batch_without_lines_is_no_batch(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for _ in range(3):
        journal.turn()
        journal.forget()
    journal.add(b"line")
    assert found(tmp_path / "j") == [b"line"]


def test_a_full_half_takes_no_more_until_there_is_room(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    line = b"x" * 1000
    count = 0
    while journal.add(line):
        count += 1
    assert HALF_BYTES // 1016 - 2 <= count <= HALF_BYTES // 1016
    assert not journal.add(b"y" * HALF_BYTES)
    journal.turn()
    assert journal.add(line)
    journal.forget()
    journal.turn()
    assert journal.add(line)
    assert found(tmp_path / "j") == [line, line]


def test_old_lines_behind_new_ones_are_not_found(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    for number in range(5):
        journal.add(b"old %d" % number)  # all of one length: a new one ends where an old one ended
    for _ in range(2):
        journal.turn()
        journal.forget()
    journal.add(b"new 0")
    assert found(tmp_path / "j") == [b"new 0"]


def test_any_file_may_have_been_there(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 100, os.urandom(3 * HALF_BYTES)):
        (tmp_path / "j").write_bytes(content)
        journal = Journal(str(tmp_path / "j"))
        assert journal.found == []
        journal.forget()
        journal.add(b"line")
        assert found(tmp_path / "j") == [b"line"]


def test_a_system_that_cannot_reserve_writes_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    for content in (b"", b"x" * 1000, b"x" * 3 * HALF_BYTES):
        (tmp_path / "j").write_bytes(content)
        opened(tmp_path / "j").add(b"line")
        assert found(tmp_path / "j") == [b"line"]


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    opened(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "j").stat().st_size == 2 * journal_module.HALF_BYTES


def test_after_the_end_nothing_is_taken(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.add(b"line")
    journal.turn()
    journal.close()
    journal.forget()  # a batch that the end did not wait for
    journal.turn()
    assert not journal.add(b"more")
    assert found(tmp_path / "j") == [b"line"]


def test_a_place_where_no_file_can_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Journal(str(tmp_path / "nowhere" / "j"))
