"""Those who have more to do pass a few at a time."""

import asyncio

from zuebee.http.connections import AT_ONCE, Turnstile


async def test_a_few_pass_in_each_round_in_their_order() -> None:
    loop, turns = asyncio.get_running_loop(), Turnstile()
    waiting = [turns.enter(loop) for _ in range(5 * AT_ONCE)]
    passed = 0
    while passed < len(waiting):
        await asyncio.sleep(0)
        done = [turn.done() for turn in waiting]
        assert sum(done) - passed <= AT_ONCE
        passed = sum(done)
        assert done == [True] * passed + [False] * (len(done) - passed)


async def test_who_left_takes_nobodys_place_and_the_line_opens_again() -> None:
    loop, turns = asyncio.get_running_loop(), Turnstile()
    gone = [turns.enter(loop) for _ in range(50)]
    for turn in gone:
        turn.cancel()
    await asyncio.wait_for(turns.enter(loop), 1)
    for _ in range(10):
        await asyncio.wait_for(turns.enter(loop), 1)
