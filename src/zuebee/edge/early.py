"""Places among the running requests for those whose body still comes: who sends slowly is counted as well."""

from collections.abc import Iterable
from typing import Protocol

from zuebee.contracts.admission import Admission, Caller, Place, Principal, Settlement
from zuebee.contracts.errors import Refusal


async def enter(admission: Admission, caller: Caller, principal: Principal, settlement: Settlement) -> Refusal | None:
    """Take such a place; its settlement gives it back, whatever happens."""
    early = await admission.enter(caller, principal)
    if isinstance(early, Refusal):
        return early
    settlement.early = early
    return None


class _Running(Protocol):
    settlement: Settlement


def early_places(running: Iterable[_Running]) -> list[Place]:
    """The places of those who have no other yet."""
    return [early for each in running if each.settlement.grant is None and (early := each.settlement.early) is not None]
