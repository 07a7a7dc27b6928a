import asyncio

from zuebee.ledger.sqlite.group_commit import Batch


async def test_all_who_wait_are_woken_and_who_leaves_takes_nobody_along() -> None:
    batch = Batch()

    async def wait() -> bool:
        await batch
        return batch.secured

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    batch.finish(secured=True)
    assert await second
    assert first.cancelled()
    await batch  # and later nobody waits at all


async def test_who_waits_for_the_flush_waits_longer_than_who_waits_for_the_commit() -> None:
    batch = Batch()
    commit, flush = asyncio.ensure_future(batch_done(batch)), asyncio.ensure_future(batch.flushed())
    await asyncio.sleep(0)
    assert batch.is_awaited
    batch.note_written()
    await commit
    assert not batch.is_awaited
    await batch  # nor does anybody who comes now
    assert (batch.written, batch.done, flush.done()) == (True, False, False)
    batch.finish(secured=True)
    await flush
    await batch.flushed()


async def test_what_was_written_stays_written_if_the_flush_fails() -> None:
    batch = Batch()
    batch.note_written()
    flush = asyncio.ensure_future(batch.flushed())
    await asyncio.sleep(0)
    batch.finish(secured=False)
    await flush
    assert batch.written
    assert not batch.secured


async def test_who_has_waited_too_long_goes_without_an_answer() -> None:
    batch = Batch()
    waiting, flush = asyncio.ensure_future(batch_done(batch)), asyncio.ensure_future(batch.flushed())
    await asyncio.sleep(0)
    batch.give_up()
    await waiting
    await flush
    assert not batch.secured
    assert not batch.done


async def batch_done(batch: Batch) -> None:
    await batch
