import asyncio

from zuebee.billing.waiting import WOKEN_AT_ONCE, Turn, Waiters
from zuebee.ledger.entries import Balance, Path

ACCOUNT = "key:a/tokens/never"
PATH = Path(1, (Balance(1, ACCOUNT, "tokens", "never", 0),))


def enter(waiters: Waiters, account: str = ACCOUNT) -> Turn:
    turn = waiters.enter(account)
    assert turn is not None
    return turn


async def test_what_comes_back_to_an_account_wakes_who_waits_for_it() -> None:
    waiters = Waiters()
    with enter(waiters) as turn, enter(waiters, "another") as other:
        waiting = asyncio.ensure_future(turn.wait(5))
        elsewhere = asyncio.ensure_future(other.wait(0.05))
        await asyncio.sleep(0)
        waiters.wake(PATH)
        assert await waiting
        assert not await elsewhere
        assert not await turn.wait(0.01), "once"
        assert not await turn.wait(0)
    assert not waiters.any


async def test_what_comes_back_before_one_waits_is_not_missed() -> None:
    waiters = Waiters()
    with enter(waiters) as turn:
        waiters.wake(PATH)
        assert await turn.wait(1)


async def test_the_first_are_woken_first_and_not_all_at_once() -> None:
    waiters = Waiters()
    turns = [enter(waiters) for _ in range(WOKEN_AT_ONCE + 5)]
    waiters.wake(PATH)
    woken = [await turn.wait(0.001) for turn in turns]
    assert woken == [True] * WOKEN_AT_ONCE + [False] * 5
    waiters.leave(turns[0], ACCOUNT)
    waiters.wake(PATH)
    assert await turns[WOKEN_AT_ONCE].wait(0.001)


async def test_their_number_is_bounded() -> None:
    waiters = Waiters(most=2)
    turns = [enter(waiters), enter(waiters, "another")]
    assert waiters.enter("a third") is None
    waiters.leave(turns[1], "another")
    assert waiters.enter("a third") is not None


async def test_where_others_give_back_unseen_one_looks_again_and_again_until_the_time_is_over() -> None:
    waiters = Waiters(polls=True)
    with enter(waiters) as turn:
        assert await turn.wait(5), "nobody woke it"
        assert await turn.wait(5)
        assert not await turn.wait(0)
