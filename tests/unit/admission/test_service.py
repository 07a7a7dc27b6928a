from tests.support.fakes import make_job
from zuebee.admission.service import AdmissionService
from zuebee.contracts.admission import ANONYMOUS, Caller, Grant, Principal, Settlement
from zuebee.contracts.errors import NO_KEY, Refusal
from zuebee.contracts.inference import Usage

PRINCIPAL = Principal("k", "key", "user")
CALLER = Caller("POST", "/", {}, "")
USAGE = Usage(7, 5, "provider")


class Parts:
    """Authenticator, limiter and recorder in one."""

    def __init__(self) -> None:
        self.who: Principal | Refusal = PRINCIPAL
        self.limit: Refusal | None = None
        self.released: list[tuple[Principal, Usage | None]] = []
        self.recorded: list[Settlement] = []

    async def identify(self, caller: Caller) -> Principal | Refusal:
        return self.who

    async def acquire(self, principal: Principal) -> Refusal | None:
        return self.limit

    def release(self, principal: Principal, usage: Usage | None) -> None:
        self.released.append((principal, usage))

    def record(self, settlement: Settlement) -> None:
        self.recorded.append(settlement)


def settlement(grant: Grant | None) -> Settlement:
    return Settlement("r", "POST", "/", "", 0.0, grant=grant, usage=USAGE)


async def test_a_caller_is_identified_by_whoever_is_in_force() -> None:
    parts, later = Parts(), Parts()
    later.who = NO_KEY
    service = AdmissionService(parts, parts, [])
    assert await service.identify(CALLER) == PRINCIPAL
    service.authenticator = later
    assert await service.identify(CALLER) == NO_KEY


async def test_what_the_limiter_takes_is_given_back_with_the_settlement() -> None:
    parts = Parts()
    service = AdmissionService(parts, parts, [parts])
    grant = await service.admit(PRINCIPAL, make_job())
    assert grant == Grant(PRINCIPAL)
    assert isinstance(grant, Grant)
    service.settle(settlement(grant))
    assert parts.released == [(PRINCIPAL, USAGE)]
    assert len(parts.recorded) == 1


async def test_what_was_refused_holds_nothing_and_is_recorded_all_the_same() -> None:
    parts, second = Parts(), Parts()
    parts.limit = Refusal(429, "rate_limit_error", "c", "m")
    service = AdmissionService(parts, parts, [parts, second])
    assert await service.admit(ANONYMOUS, make_job()) == parts.limit
    service.settle(settlement(None))
    assert parts.released == []
    assert parts.recorded == second.recorded != []
