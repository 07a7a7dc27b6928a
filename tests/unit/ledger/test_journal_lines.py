"""A journal that was damaged gives all that can still be read, and says what cannot; one that was not says nothing."""

import logging
import mmap
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from zuebee.ledger.sqlite.journal import HALF_BYTES, LINE_BYTES, START_BYTES, Damage, Journal, lines_of

LINES = [b"line %d " % number + b"x" * (50 * number) for number in range(6)]


def written(path: Path, *batches: list[bytes]) -> bytes:
    """The content of a journal whose last two batches are not on disk."""
    journal = Journal(str(path))
    journal.forget()
    for number, lines in enumerate(batches):
        for line in lines:
            assert journal.add(line)
        if number < len(batches) - 1:
            journal.turn()
            if number < len(batches) - 2:
                journal.forget()
    return path.read_bytes()


def damaged(content: bytes, place: int, bytes_: bytes) -> bytes:
    return content[:place] + bytes_ + content[place + len(bytes_) :]


def place_of(number: int) -> int:
    """Where a line's mark is."""
    return START_BYTES + sum(LINE_BYTES + len(line) for line in LINES[:number])


@pytest.mark.parametrize("number", range(len(LINES)))
@pytest.mark.parametrize("offset", [0, 3, 4, 8, 10, 12, 15, LINE_BYTES, LINE_BYTES + 5])
def test_one_damaged_byte_costs_one_line(tmp_path: Path, number: int, offset: int) -> None:
    content = written(tmp_path / "j", LINES)
    place = place_of(number) + offset
    lines, damage = lines_of(damaged(content, place, bytes([content[place] ^ 0x40])))
    assert lines == LINES[:number] + LINES[number + 1 :]
    assert damage == [Damage(1, LINE_BYTES + len(LINES[number]), len(LINES) - 1 - number)]


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\xf7JL\xa5"])
def test_a_page_that_is_gone_costs_the_lines_in_it(tmp_path: Path, fill: bytes) -> None:
    lines = [b"%d " % number + b"y" * 200 for number in range(200)]
    content = written(tmp_path / "j", lines)
    found, damage = lines_of(damaged(content, 8192, (fill * 4096)[:4096]))
    assert 200 - 21 <= len(found) < 200 - 17
    assert [line for line in lines if line in set(found)] == found
    assert [(each.half, each.found_behind > 100) for each in damage] == [(1, True)]


def test_the_beginning_of_a_half_that_is_gone_costs_what_stood_there(tmp_path: Path) -> None:
    content = written(tmp_path / "j", [b"old"] * 9, [b"older"] * 9, [b"before"], LINES)
    for start, size in ((0, 8), (8, 8), (0, 16), (0, START_BYTES + 4)):
        for half in (0, HALF_BYTES):
            found, damage = lines_of(damaged(content, half + start, b"\0" * size))
            assert set(found) <= {b"before", *LINES}
            assert len(found) >= len(LINES)
            assert len(damage) >= 1


def test_both_halves_are_read_by_themselves(tmp_path: Path) -> None:
    content = written(tmp_path / "j", LINES[:3], LINES[3:])
    content = damaged(content, HALF_BYTES + START_BYTES + 20, b"?")
    content = damaged(content, place_of(1) + 20, b"?")
    lines, damage = lines_of(content)
    assert lines == [LINES[0], LINES[2], LINES[4], LINES[5]]
    assert [(each.half, each.found_behind) for each in damage] == [(1, 1), (2, 2)]


def test_lines_of_earlier_rounds_never_come_again(tmp_path: Path) -> None:
    """Whatever is damaged, what was on disk two batches ago is not settled a second time."""
    chance = random.Random(7)
    content = written(tmp_path / "j", [b"stale %d" % n for n in range(90)], [b"old"], LINES, [b"last"])
    for _ in range(300):
        place = chance.choice((0, HALF_BYTES)) + START_BYTES + chance.randrange(1500)
        lines, _ = lines_of(damaged(content, place, chance.randbytes(chance.randrange(1, 60))))
        assert set(lines) <= {*LINES, b"last"}


def killed(path: Path, work: Callable[[Journal], None], content: bytes = b"") -> list[bytes]:
    """What the file may be if the process is killed before any step of `work`, or within a step that is no single
    store of eight bytes. `content`: what it finds.
    """
    if content:
        path.write_bytes(content)
    states: list[bytes] = []

    class Steps:
        """In the place of the file in memory."""

        def __init__(self, descriptor: int, size: int) -> None:
            self.mapped = bytearray(os.pread(descriptor, size, 0))

        def __getitem__(self, part: slice) -> bytes:
            return bytes(self.mapped[part])

        def __setitem__(self, part: slice, value: bytes) -> None:
            start, stop, _ = part.indices(len(self.mapped))
            assert stop - start == len(value)
            for cut in range(0, len(value), 8) if len(value) < 5000 else (0, len(value) // 2):
                states.append(bytes(self.mapped[:start]) + value[:cut] + bytes(self.mapped[start + cut :]))
            self.mapped[part] = value

    with mock.patch.object(mmap, "mmap", Steps):
        journal = Journal(str(path))
    if not content:
        journal.forget()
        for line in LINES:
            journal.add(line)
    states.clear()
    work(journal)
    return states


def rounds(journal: Journal) -> None:
    for number in range(3):
        journal.turn()
        journal.add(b"more %d" % number)
        journal.forget()
        journal.add(b"even more of %d" % number)


def test_a_process_that_is_killed_leaves_no_damage(tmp_path: Path) -> None:
    states = killed(tmp_path / "j", rounds)
    assert len(states) > 30
    for content in states:
        assert lines_of(content)[1] == []


def test_a_process_that_is_killed_while_it_makes_the_file_leaves_no_damage(tmp_path: Path) -> None:
    whole = written(tmp_path / "j", LINES)
    assert lines_of(whole)[0] == LINES
    for content in killed(tmp_path / "j", Journal.forget, whole):
        lines, damage = lines_of(content)
        assert damage == []
        assert set(lines) <= set(LINES)


def test_an_upgrade_that_is_killed_leaves_no_damage(tmp_path: Path) -> None:
    states = killed(tmp_path / "j", Journal.forget, first_version(LINES[:3], LINES[3:]))
    assert lines_of(states[0])[0] == LINES
    for content in states:
        lines, damage = lines_of(content)
        assert damage == []
        assert set(lines) <= set(LINES)


# --- what is told ---


def test_damage_is_told_with_figures_and_a_copy_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = damaged(written(tmp_path / "j", LINES), place_of(2) + 20, b"?")
    (tmp_path / "j").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        journal = Journal(str(tmp_path / "j"))
    assert journal.found == LINES[:2] + LINES[3:]
    assert journal.damage == [Damage(1, LINE_BYTES + len(LINES[2]), 3)]
    assert f"{LINE_BYTES + len(LINES[2])} bytes of half 1 cannot be read, 3 lines behind them were found" in caplog.text
    copy = tmp_path / "j.damaged"
    assert copy.read_bytes() == content
    assert copy.stat().st_mode & 0o777 == 0o600
    (tmp_path / "j").write_bytes(damaged(content, place_of(0) + 20, b"?"))
    assert Journal(str(tmp_path / "j")).found == [LINES[1], *LINES[3:]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j", "j.damaged"], "one copy, the newest"
    assert copy.read_bytes() != content


def test_a_copy_that_cannot_be_kept_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "j").write_bytes(damaged(written(tmp_path / "j", LINES), place_of(2) + 20, b"?"))
    (tmp_path / "j.damaged").mkdir()
    (tmp_path / "j.damaged" / "file").touch()
    assert Journal(str(tmp_path / "j")).found == LINES[:2] + LINES[3:]
    assert "no copy of the damaged journal" in caplog.text


# --- what the first version left ---


def first_version(*halves: list[bytes]) -> bytes:
    content = bytearray(2 * HALF_BYTES)
    for half, lines in enumerate(halves):
        place = half * HALF_BYTES
        for line in lines:
            header = struct.pack("<II", len(line), zlib.crc32(line))
            content[place : place + 8 + len(line)] = header + line
            place += 8 + len(line)
    return bytes(content)


def test_a_journal_of_the_first_version_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(first_version(LINES[:3], LINES[3:]))
    assert Journal(str(tmp_path / "j")).found == LINES, "until it was said that they are in the store"
    journal = Journal(str(tmp_path / "j"))
    assert (journal.found, journal.damage) == (LINES, [])
    assert not journal.add(b"too early")
    journal.forget()
    journal.add(b"new")
    assert Journal(str(tmp_path / "j")).found == [b"new"]


def test_the_first_version_says_when_a_line_of_it_is_damaged(tmp_path: Path) -> None:
    content = first_version(LINES)
    place = sum(8 + len(line) for line in LINES[:2])
    lines, damage = lines_of(damaged(content, place + 20, b"?"))
    assert lines == LINES[:2]
    assert damage == [Damage(1, sum(8 + len(line) for line in LINES[2:]), 0)]
