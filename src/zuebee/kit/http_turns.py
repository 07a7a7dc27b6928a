"""Whose turn it is when clients send more than one request at once."""

import asyncio
from collections import deque
from typing import Final

AT_ONCE: Final = 4
"""So many are let through in one round of the event loop: the rest of a round is for everybody else."""


class Turnstile:
    """Lets those who have more to do pass a few at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._line: deque[asyncio.Future[None]] = deque()

    def enter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Stand in line; what is returned is done when it is one's turn, in a later round of the loop."""
        turn = loop.create_future()
        self._line.append(turn)
        if len(self._line) == 1:
            loop.call_soon(self._open, loop)
        return turn

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        line = self._line
        passed = 0
        while line and passed < AT_ONCE:
            turn = line.popleft()
            if not turn.done():  # else whoever waited has left
                turn.set_result(None)
                passed += 1
        if line:
            loop.call_soon(self._open, loop)
