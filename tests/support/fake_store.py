"""A store of the shared ledger in memory, that can be made to wait and to fail."""

import threading
from typing import Any

from tests.support.shared_ledger import AT_S
from zuebee.ledger.decide import decide
from zuebee.ledger.entries import Balance, HoldState
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Answer, Expire, Operation, Record, Settle


class FakeStore:
    """`failures` are raised one after the other, before or (in `late_failures`) after the work."""

    def __init__(self) -> None:
        self.owner = 1
        self.connected = True
        self.decided: list[Answer] = []
        self.ledger = Ledger(1)
        self.batches: list[list[Operation]] = []
        self.records: list[str] = []
        self.kept: list[Record] = []
        self.failures: list[Exception] = []
        self.late_failures: list[Exception] = []
        self.refused = ""
        self.go = threading.Event()
        self.go.set()
        self.expired: list[Expire] = []
        self.events: list[str] = []
        self._applied = 0

    def start(self, name: str) -> int:
        return 1

    def resume(self) -> int:
        self.events.append("resume")
        return 1

    def applied(self, owner: int) -> int:
        return self._applied

    def apply(self, batch: int, operations: list[Operation], owner: int = 0) -> list[Answer] | None:
        assert self.go.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        if batch and self._applied >= batch:
            return None
        if any(getattr(each, "hold", "") == self.refused for each in operations if self.refused):
            raise ValueError("impossible")
        decided = [decide(self.ledger, each, AT_S) for each in operations]
        self.decided = [answer.copy() if isinstance(answer, HoldState) else answer for answer, _ in decided]
        self.batches.append(operations)
        self.kept += [kept for _, kept in decided if kept is not None]
        self.records += [kept.event_id for _, kept in decided if kept is not None]
        self._applied = max(self._applied, batch)
        if self.late_failures:
            raise self.late_failures.pop(0)
        return self.decided

    def sweep(self) -> list[Expire]:
        assert self.go.wait(10)
        expired, self.expired = self.expired, []
        return expired

    def balances(self) -> list[Balance]:
        return list(self.ledger.balances())

    def end(self) -> None:
        self.events.append("end")

    def disconnect(self) -> None:
        self.events.append("disconnect")

    def cut(self) -> None:
        self.events.append("cut")
        self.go.set()

    def settled(self) -> list[Any]:
        """The holds of all settlements, in their order."""
        return [each.hold for batch in self.batches for each in batch if isinstance(each, Settle)]
