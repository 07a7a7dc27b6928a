"""What does it cost, and may it be spent?"""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from zuebee.contracts.admission import Amount, Grant, Hold, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Job


class _Records(Protocol):
    def record(self, settlement: Settlement) -> None: ...


class RecordsOnly:
    """Keeps usage records, and refuses whatever would need a ledger."""

    def __init__(self, records: _Records) -> None:
        self._records = records

    def quote(self, job: Job, prompt_tokens: int, output_tokens: int) -> Amount | Refusal:
        """See `Billing.quote`."""
        return Amount(prompt_tokens + output_tokens)

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> Hold | Refusal:
        """See `Billing.reserve`."""
        return STORE_UNAVAILABLE

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        """See `Billing.settle`."""
        self._records.record(settlement)
        return None

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        """See `Billing.attend`."""
        return []

    def unable(self) -> Refusal | None:
        """See `Billing.unable`."""
        return STORE_UNAVAILABLE
