import asyncio

from zuebee.billing.batch import Batch


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


async def test_who_has_waited_too_long_goes_without_an_answer() -> None:
    batch = Batch()
    waiting = asyncio.ensure_future(batch_done(batch))
    await asyncio.sleep(0)
    batch.give_up()
    await waiting
    assert not batch.secured
    assert not batch.done


async def batch_done(batch: Batch) -> None:
    await batch
