import asyncio

from tests.support.shared_ledger import post
from zuebee.ledger.postgres.spool import Pending, SharedBatch


async def test_whoever_waits_is_woken_once() -> None:
    future = asyncio.get_running_loop().create_future()
    pending = Pending(post("r", 1), future)
    pending.answer(None)
    pending.answer(None)
    assert await future is None


async def test_nobody_need_be_waiting() -> None:
    Pending(post("r", 1), None).answer(None)
    left = asyncio.get_running_loop().create_future()
    left.cancel()
    Pending(post("r", 1), left).answer(None)


def test_a_batch_has_a_number_and_begins_empty() -> None:
    assert (SharedBatch(3).number, SharedBatch(3).items) == (3, [])
