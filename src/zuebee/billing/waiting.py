"""Requests that wait for others to give back what they do not need of a budget that they share."""

import asyncio
import random
from typing import Final

from zuebee.ledger.entries import Path

MAX_WAITING: Final = 1000
"""In all accounts. Whoever comes then is refused at once."""

WOKEN_AT_ONCE: Final = 16
"""Of those who wait for one account, in the order of their coming: the first will take what came back."""

FIRST_LOOK_S: Final = 0.025
LONGEST_LOOK_S: Final = 0.25
"""Between two looks of whoever waits where other processes give back as well, of which nobody tells."""


class Turn:
    """A place among those who wait for an account. A context manager: leaving it gives up the place."""

    def __init__(self, waiters: "Waiters", account: str) -> None:
        self._waiters = waiters
        self._account = account
        self._woken = asyncio.Event()
        self._look_s = FIRST_LOOK_S

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.leave(self, self._account)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it is worth a look: something came back, or may have; False: nothing did in time."""
        if timeout_s <= 0:
            return False
        wait_s = timeout_s
        if self._waiters.polls:
            wait_s = min(timeout_s, self._look_s * random.uniform(0.5, 1.5))
            self._look_s = min(2 * self._look_s, LONGEST_LOOK_S)
        try:
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        except TimeoutError:
            return self._waiters.polls
        self._woken.clear()
        return True

    def wake(self) -> None:
        """Something came back."""
        self._woken.set()


class Waiters:
    """All that wait, by account, in the order of their coming. `polls`: others may give back without a word."""

    def __init__(self, *, polls: bool = False, most: int = MAX_WAITING) -> None:
        self.polls = polls
        self._most = most
        self._turns: dict[str, dict[Turn, None]] = {}
        self._count = 0

    @property
    def any(self) -> bool:
        """Whether somebody waits."""
        return self._count > 0

    def enter(self, account: str) -> Turn | None:
        """A place in the line for an account; None when too many wait already."""
        if self._count >= self._most:
            return None
        self._count += 1
        turn = Turn(self, account)
        self._turns.setdefault(account, {})[turn] = None
        return turn

    def leave(self, turn: Turn, account: str) -> None:
        """Give a place up."""
        turns = self._turns[account]
        del turns[turn]
        self._count -= 1
        if not turns:
            del self._turns[account]

    def wake(self, path: Path) -> None:
        """A hold on this path has ended: the first of those who wait for its accounts look again."""
        if self._count == 0:
            return
        for balance in path.balances:
            for _, turn in zip(range(WOKEN_AT_ONCE), self._turns.get(balance.account, ()), strict=False):
                turn.wake()
