"""May this request run, and what became of it."""

from collections.abc import Coroutine, Sequence
from typing import Any

from zuebee.contracts.admission import Authenticator, Caller, Grant, Limiter, Principal, Recorder, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job


class AdmissionService:
    """The line that each request passes. `authenticator` may be replaced at any time (reload)."""

    def __init__(self, authenticator: Authenticator, limiter: Limiter, recorders: Sequence[Recorder]) -> None:
        self.authenticator = authenticator
        self._limiter = limiter
        self._recorders = tuple(recorders)

    def identify(self, caller: Caller) -> Coroutine[Any, Any, Principal | Refusal]:
        """See `Admission.identify`."""
        return self.authenticator.identify(caller)

    async def admit(self, principal: Principal, job: Job) -> Grant | Refusal:
        """See `Admission.admit`."""
        refusal = await self._limiter.acquire(principal)
        return Grant(principal) if refusal is None else refusal

    def settle(self, settlement: Settlement) -> None:
        """See `Admission.settle`."""
        if settlement.grant is not None:
            self._limiter.release(settlement.grant.principal, settlement.usage)
        for recorder in self._recorders:
            recorder.record(settlement)
