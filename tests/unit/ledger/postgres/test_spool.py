import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.shared_ledger import post
from zuebee.ledger.errors import StoreFailed, UnknownOwner
from zuebee.ledger.operations import Operation
from zuebee.ledger.postgres.spool import Spool, SpoolLine, replay


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "spool.jsonl"


def line(number: int, owner: int = 1, batch: int = 1, alone: int = 0) -> SpoolLine:
    return SpoolLine(owner, batch, post(f"r_{number}", number), alone)


def test_what_is_kept_is_found_again(path: Path) -> None:
    spool = Spool(str(path))
    spool.append([line(1), line(2)])
    spool.append([line(3, batch=2)])
    spool.close()
    assert Spool(str(path)).read() == [line(1), line(2), line(3, batch=2)]


def test_a_file_of_an_earlier_version_is_read(path: Path) -> None:
    """Its lines were objects, with the record's row as it goes to PostgreSQL."""
    spool = Spool(str(path))
    row = list(line(1).settle.record.row)  # type: ignore[union-attr]
    settle = {"hold": "r_1", "amount": {"tokens": 1, "cost_nano": 0}, "record": [row, "", "r_1"], "if_held": False}
    free = {"hold": "", "amount": None, "record": [row, "", "r_1"]}
    old = [{"owner": 1, "batch": 2, "settle": settle, "number": 7}, {"owner": 1, "batch": 2, "settle": free}]
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in old))
    first, second = spool.read()
    assert (first.owner, first.batch, first.number) == (1, 2, 7)
    assert first.settle == line(1).settle
    assert first.settle.record is not None
    assert first.settle.record.billed
    assert (second.settle.hold, second.settle.amount, second.number) == ("", None, 0)
    assert second.settle.record is not None
    assert not second.settle.record.billed


def test_it_is_nobody_elses_to_read(path: Path) -> None:
    Spool(str(path))
    assert path.stat().st_mode & 0o077 == 0


def test_two_processes_cannot_have_it(path: Path) -> None:
    first = Spool(str(path))
    with pytest.raises(OSError, match=r"store\.spool_path"):
        Spool(str(path))
    first.close()
    Spool(str(path)).close()


def test_a_line_that_was_cut_off_is_left_out(path: Path) -> None:
    spool = Spool(str(path))
    spool.append([line(1), line(2)])
    os.truncate(path, path.stat().st_size - 9)
    assert spool.read() == [line(1)]
    assert not path.with_name("spool.jsonl.damaged").exists()


def test_a_line_that_is_damaged_is_kept_for_people(path: Path) -> None:
    spool = Spool(str(path))
    spool.append([line(1)])
    with path.open("ab") as file:
        file.write(b"{nonsense}\n")
    spool.append([line(2)])
    assert spool.read() == [line(1), line(2)]
    assert b"nonsense" in path.with_name("spool.jsonl.damaged").read_bytes()


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(path))
    spool.append([line(1)])
    write = os.write

    def full(file: int, content: bytes) -> int:
        if len(content) < 60:
            raise OSError(errno.ENOSPC, "no space")
        return write(file, content[:50])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            spool.append([line(2)])
    spool.append([line(3)])
    assert spool.read() == [line(1), line(3)]


class Store:
    """Remembers what it was told to do."""

    def __init__(self, refused: str = "", applied: int = 0, known: int = 1) -> None:
        self.done: list[tuple[int, int, list[str]]] = []
        self.refused = refused
        self._applied = applied
        self._known = known

    def applied(self, owner: int) -> int:
        return self._applied

    def apply(self, batch: int, operations: list[Operation], owner: int = 0) -> list[None]:
        if owner > self._known:
            raise UnknownOwner("who?")
        holds = [each.hold for each in operations]  # type: ignore[union-attr]
        if self.refused in holds:
            raise StoreFailed("impossible")
        self.done.append((owner, batch, holds))
        return []


def replayed(path: Path, store: Any, *lines: SpoolLine) -> list[tuple[int, int, list[str]]]:
    spool = Spool(str(path))
    spool.append(list(lines))
    replay(store, spool)
    assert spool.read() == []
    done: list[tuple[int, int, list[str]]] = store.done
    return done


def test_batches_are_done_again_as_they_were(path: Path) -> None:
    lines = [line(1), line(2), line(3, batch=2), line(4, owner=7)]
    assert replayed(path, Store(known=7), *lines) == [(1, 1, ["r_1", "r_2"]), (1, 2, ["r_3"]), (7, 1, ["r_4"])]


def test_one_that_cannot_be_done_does_not_stop_the_rest(path: Path) -> None:
    done = replayed(path, Store(refused="r_2"), line(1, alone=11), line(2, alone=12), line(3, alone=13))
    assert done == [(1, 11, ["r_1"]), (1, 13, ["r_3"])]
    assert path.with_name("spool.jsonl.damaged").exists()


def test_what_was_done_alone_before_the_process_died_is_not_done_again(path: Path) -> None:
    lines = [line(1, batch=99, alone=11), line(2, batch=99, alone=12), line(3, batch=99, alone=13)]
    assert replayed(path, Store(applied=12), *lines) == [(1, 99, ["r_3"])]


def test_settlements_of_a_process_that_the_store_does_not_know_are_done_all_the_same(path: Path) -> None:
    assert replayed(path, Store(), line(1, owner=7, alone=11)) == [(0, 0, ["r_1"])]
