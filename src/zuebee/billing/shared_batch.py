"""Operations that are done together, and who waits for them."""

import asyncio
from typing import Any

from zuebee.billing.operations import Answer, Operation


class Pending:
    """An operation and whoever waits for its answer."""

    __slots__ = ("abandoned", "future", "kept", "operation")

    def __init__(self, operation: Operation, future: "asyncio.Future[Any] | None") -> None:
        self.operation = operation
        self.future = future
        self.abandoned = False
        self.kept = False

    def answer(self, answer: Answer) -> None:
        """Wake whoever waits."""
        if self.future is not None and not self.future.done():
            self.future.set_result(answer)


class SharedBatch:
    """One transaction. Batches of a process are numbered, so that one whose end was not seen can be found again."""

    __slots__ = ("begun_at_s", "items", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Pending] = []
        self.begun_at_s = 0.0
