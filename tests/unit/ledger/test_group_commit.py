import asyncio
import threading

import pytest

from zuebee.contracts.admission import Settlement
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.sqlite.group_commit import LATER, NOW, SOON, SOON_S, Batch, Committer

RECORD = Settlement("r", "POST", "/", "", 0.0)


class Disk:
    """Keeps batches when it is told to."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.open = threading.Event()
        self.open.set()
        self.spins = threading.Event()
        self.spins.set()
        self.errors: list[Exception] = []
        self.flush_errors: list[Exception] = []
        self.flushed = 0
        self.closed = False

    def write(self, batch: Batch) -> None:
        assert self.open.wait(5)
        if self.errors:
            raise self.errors.pop(0)
        self.batches.append(batch)

    def flush(self) -> None:
        assert self.spins.wait(5)
        if self.flush_errors:
            raise self.flush_errors.pop(0)
        self.flushed = len(self.batches)

    def close(self) -> None:
        self.closed = True


def committer(disk: Disk, timeout_s: float = 5.0) -> Committer:
    nothing = lambda batch: None  # noqa: E731
    return Committer(disk.write, disk.flush, nothing, disk.close, closed=nothing, interval_s=60.0, timeout_s=timeout_s)


async def test_what_somebody_waits_for_goes_out_at_once() -> None:
    disk = Disk()
    commits = committer(disk)
    batch = commits.touch(NOW)
    await batch.flushed()
    assert batch.secured
    assert disk.batches == [batch]
    await commits.aclose()
    assert disk.closed


async def test_what_comes_while_one_is_written_is_written_together() -> None:
    disk = Disk()
    commits = committer(disk)
    disk.open.clear()
    first = commits.touch(NOW)
    await asyncio.sleep(0.01)
    second, third = commits.touch(NOW), commits.touch(NOW)
    assert first is not second
    assert second is third
    disk.open.set()
    await third
    assert disk.batches == [first, second]
    await commits.aclose()


async def test_what_nobody_waits_for_waits_for_company_or_the_end() -> None:
    disk = Disk()
    commits = committer(disk)
    commits.current.records.append(RECORD)
    batch = commits.touch(LATER)
    await asyncio.sleep(0.01)
    assert disk.batches == []
    await commits.aclose()
    assert disk.batches == [batch]


async def test_what_is_wanted_soon_goes_out_soon_and_at_once_when_somebody_waits() -> None:
    disk = Disk()
    commits = committer(disk)
    batch = commits.touch(SOON)
    commits.touch(LATER)
    await asyncio.sleep(0.005)
    assert disk.batches == []
    await batch.flushed()
    assert batch.secured

    loop = asyncio.get_running_loop()
    hurried, begun_s = commits.touch(SOON), loop.time()
    await commits.hurry(hurried)
    assert loop.time() - begun_s < SOON_S / 2
    await commits.aclose()
    assert disk.batches[:2] == [batch, hurried]


async def test_a_settlement_is_told_when_it_is_written_and_a_hold_when_it_is_flushed() -> None:
    disk = Disk()
    commits = committer(disk)
    disk.spins.clear()
    batch = commits.touch(NOW)
    hold = asyncio.ensure_future(commits.hurry(batch))
    await batch
    assert disk.batches == [batch]
    assert (disk.flushed, batch.written, batch.secured, hold.done()) == (0, True, False, False)
    next_one = commits.touch(NOW)
    settled = asyncio.ensure_future(done(next_one))
    await asyncio.sleep(0.01)
    assert not settled.done(), "it is written after the flush of the one before"
    disk.spins.set()
    await hold
    assert batch.secured
    await settled
    await commits.aclose()
    assert disk.flushed == len(disk.batches)


async def test_a_settlement_is_not_told_before_it_is_written() -> None:
    disk = Disk()
    commits = committer(disk)
    disk.open.clear()
    batch = commits.touch(NOW)
    settled = asyncio.ensure_future(done(batch))
    await asyncio.sleep(0.01)
    assert not settled.done()
    disk.open.set()
    await settled
    await commits.aclose()


@pytest.mark.parametrize("error", [StoreFailed("SQLITE_IOERR_FSYNC"), RuntimeError("a defect")])
async def test_after_a_flush_that_failed_nothing_is_confirmed_any_more(error: Exception) -> None:
    disk = Disk()
    disk.flush_errors = [error]
    commits = committer(disk)
    batch = commits.touch(NOW)
    await batch
    assert batch.written
    await commits.hurry(batch)
    assert not batch.secured
    assert commits.failure
    later = commits.touch(NOW)
    await later
    assert (later.written, later.secured) == (False, False)
    assert disk.batches == [batch]
    await commits.aclose()


async def test_a_busy_store_is_tried_again() -> None:
    disk = Disk()
    disk.errors = [StoreBusy("SQLITE_BUSY"), StoreBusy("SQLITE_FULL")]
    commits = committer(disk)
    batch = commits.touch(NOW)
    await batch.flushed()
    assert batch.secured
    assert commits.failure == ""
    await commits.aclose()


@pytest.mark.parametrize("error", [StoreFailed("SQLITE_IOERR"), RuntimeError("a defect")])
async def test_after_a_failure_nothing_is_confirmed_any_more(error: Exception) -> None:
    disk = Disk()
    disk.errors = [error]
    commits = committer(disk)
    batch = commits.touch(NOW)
    await batch
    assert not batch.secured
    assert commits.failure
    later = commits.touch(NOW)
    await later
    assert not later.secured
    assert disk.batches == []
    await commits.aclose()


async def test_nobody_waits_for_a_hanging_disk_for_ever() -> None:
    disk = Disk()
    commits = committer(disk, timeout_s=0.05)
    disk.open.clear()
    batch = commits.touch(NOW)
    waiting = asyncio.ensure_future(done(batch))
    await asyncio.sleep(0.06)
    assert commits.stuck_s > 0.05
    commits.relieve()
    await waiting
    assert not batch.secured
    disk.open.set()
    await commits.aclose()
    assert batch.secured


async def done(batch: Batch) -> None:
    await batch
