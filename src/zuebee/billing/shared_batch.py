"""Operations that are done together, and who waits for them."""

import asyncio
from typing import Any

from zuebee.billing.entries import HoldState, Short
from zuebee.billing.operations import Answer, Operation, Reserve, Settle, release
from zuebee.contracts.inference import Job


class Pending:
    """An operation and whoever waits for its answer.

    What was reserved belongs to this object until its caller goes on with the answer. A caller that stops waiting, at
    whatever moment, says so by `leave`; one whose task was cancelled and did not run since has a cancelled future. In
    both cases, and when nobody can say what became of it, `let_go` has what gives the hold back, once.
    """

    __slots__ = ("abandoned", "future", "job", "kept", "left", "number", "operation", "released")

    def __init__(
        self, operation: Operation, future: "asyncio.Future[Any] | None" = None, job: Job | None = None
    ) -> None:
        self.operation = operation
        self.future = future
        self.job = job  # that it is for
        self.number = 0  # by which it is known that it was done, if it is done alone
        self.abandoned = False  # nobody will take the answer
        self.left = False  # for its caller went away
        self.kept = False
        self.released = False

    @property
    def is_over(self) -> bool:
        """Whether nobody wants it any more, so that it need not be begun. May be asked by any thread."""
        return self.abandoned or (self._is_cancelled and isinstance(self.operation, Reserve))

    @property
    def _is_cancelled(self) -> bool:
        return self.future is not None and self.future.cancelled()

    def answer(self, answer: Answer) -> Settle | None:
        """Wake whoever waits. What is to be settled instead, if nobody does."""
        future = self.future
        if future is not None and not future.done():
            future.set_result(answer)
            # Without an answer it is refused, and may have been done all the same.
            return self.let_go(answer) if answer is None else None
        if self._is_cancelled:
            self.abandoned = self.left = True
        return self.let_go(answer) if self.abandoned else None

    def leave(self) -> Settle | None:
        """The caller stops waiting. What is to be settled, if its answer is there already."""
        future = self.future
        self.left = True
        if not self.abandoned:
            self.abandoned = True
            if future is not None and future.done() and not future.cancelled() and future.exception() is None:
                return self.let_go(future.result())
        return None

    def let_go(self, answer: Answer = None) -> Settle | None:
        """What gives back the hold that nobody takes; None if there is none, or it was given back before."""
        operation = self.operation
        if not isinstance(operation, Reserve) or self.released or isinstance(answer, Short):
            return None
        if isinstance(answer, HoldState) and answer.state != "open":
            return None
        self.released = True
        return release(operation, left=self.left, cut_for=None if self.job is None else self.job.cut_for)


MAX_BATCH = 512
STEP = 1024
"""Between the numbers of two batches: each operation has one of its own below that of its batch."""


class SharedBatch:
    """One transaction. Batches of a process are numbered, so that one whose end was not seen can be found again, and so
    can each of its operations.
    """

    __slots__ = ("begun_at_s", "items", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Pending] = []
        self.begun_at_s = 0.0

    def add(self, pending: Pending) -> None:
        """Let it be a part of this."""
        self.items.append(pending)
        pending.number = self.number - STEP + len(self.items)
