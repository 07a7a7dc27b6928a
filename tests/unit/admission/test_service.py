import hashlib
from collections.abc import Awaitable, Sequence

import pytest

from tests.support.fakes import make_job
from zuebee.admission.firewall import OpenFirewall
from zuebee.admission.service import CONTEXT_MARGIN, AdmissionService
from zuebee.contracts.admission import Amount, Budget, Caller, Grant, Hold, Need, Permit, Principal, Settlement
from zuebee.contracts.errors import BODY_NOT_SIGNED, KEY_REVOKED, NO_KEY, STORE_UNAVAILABLE, UNKNOWN_KEY, Refusal
from zuebee.contracts.inference import UNKNOWN, Headers, Job, ModelFacts, Usage

PRINCIPAL = Principal("k", "key", "user")
PAYING = Principal("k", "key", "user", budgets=(Budget("key:k/tokens/never", "tokens", "never", 100),), credential="c")
USAGE = Usage(7, 5, "provider")
LIMITED = Refusal(429, "rate_limit_error", "c", "m")
BROKE = Refusal(402, "insufficient_quota", "budget_exceeded", "m")


class Spot:
    def headers(self) -> Headers:
        return []


class Held:
    secured = True
    joined = False

    def __init__(self, answer_tokens: int = 1000, *, whole: bool = True) -> None:
        self.answer_tokens = answer_tokens
        self.whole = whole

    async def wait(self, settlement: Settlement | None = None) -> Refusal | None:
        return None


class Parts:
    """Everything behind admission in one; each does what it is told, and `log` is what was asked of them."""

    def __init__(self) -> None:
        self.who: Principal | Refusal | Exception = PRINCIPAL
        self.limit: Refusal | None = None
        self.budget: Refusal | Exception | None = None
        self.price: Refusal | None = None
        self.ill: Refusal | None = None
        self.block: Refusal | None = None
        self.bad: list[tuple[Principal, Refusal]] = []
        self.log: list[object] = []
        self.facts = UNKNOWN
        self.models = {"m"}
        self.held = Held()
        self.need = Need(0, 0, 0, 0)
        self.service = AdmissionService(
            authenticator=self,
            firewall=OpenFirewall(),
            limiter=self,
            billing=self,
            recorders=[self],
            sizes=lambda key, job: (len(job.body), 4 * len(job.body)),
            facts=lambda model: self.facts,
            served=self.served,
            default_output_tokens=1000,
            max_output_tokens=5000,
        )

    async def identify(self, caller: Caller) -> Principal | Refusal:
        if isinstance(self.who, Exception):
            raise self.who
        return self.who

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        return self.bad

    def blocked(self, address: str) -> Refusal | None:
        return self.block

    def failed(self, address: str) -> None:
        self.log.append(("failed", address))

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Permit | Refusal:
        self.log.append(("acquire", tokens))
        return self.limit or Spot()

    def release(self, place: Permit, tokens: int | None) -> None:
        self.log.append(("release", tokens))

    async def attend(self, held: Sequence[Grant] | Sequence[Permit]) -> Sequence[tuple[Grant, Refusal]]:
        return []

    def quote(self, principal: Principal, job: Job, need: Need) -> Amount | Refusal:
        self.need = need
        return self.price or Amount(need.prompt_most + need.answers_most, 3)

    def unpriced(self, principal: Principal, model: str) -> Refusal | None:
        return self.price

    async def served(self, model: str) -> bool:
        return model in self.models

    def unable(self) -> Refusal | None:
        return self.ill

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> Hold | Refusal:
        self.log.append(("reserve", amount))
        if isinstance(self.budget, Exception):
            raise self.budget
        return self.budget or self.held

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        self.log.append("settled")
        return None

    def record(self, settlement: Settlement) -> None:
        self.log.append("recorded")

    async def admit(self, principal: Principal, job: Job | None = None) -> Grant | Refusal:
        return await self.service.admit(caller(), principal, job or make_job(max_output_tokens=50))


def caller() -> Caller:
    return Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")


def settlement(grant: Grant | None) -> Settlement:
    return Settlement("r", "POST", "/", "", 0.0, grant=grant, usage=USAGE)


async def test_a_failed_key_is_remembered_against_its_address_and_a_good_one_is_not() -> None:
    parts = Parts()
    assert await parts.service.identify(caller()) == PRINCIPAL
    assert parts.log == []
    for who in (NO_KEY, KEY_REVOKED):
        parts.who = who
        assert await parts.service.identify(caller()) == who
        assert parts.log == [], "neither is a guess"
    parts.who = UNKNOWN_KEY
    assert await parts.service.identify(caller()) == UNKNOWN_KEY
    assert parts.log == [("failed", "10.0.0.1")]


async def test_a_blocked_address_is_refused_before_its_key_is_looked_at() -> None:
    parts = Parts()
    parts.block, parts.who = LIMITED, ValueError("asked")
    assert await parts.service.identify(caller()) == LIMITED


@pytest.mark.requirement("A056")
async def test_who_and_what_are_two_steps() -> None:
    """A stranger gets 401; a known caller without permission 403."""
    parts = Parts()
    parts.who = Principal("k", endpoints=("/v1/embeddings",))
    refusal = await parts.service.identify(caller())
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (403, "endpoint_not_allowed")
    refused = await parts.admit(Principal("k", models=("gpt-*",)))
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code, refused.param) == (403, "model_not_allowed", "model")
    parts.who = NO_KEY
    assert await parts.service.identify(caller()) == NO_KEY


async def test_what_was_taken_is_given_back_with_the_settlement() -> None:
    parts = Parts()
    grant = await parts.admit(PRINCIPAL)
    assert isinstance(grant, Grant)
    parts.service.settle(settlement(grant))
    tokens = len(make_job().body) + 50
    assert parts.log == [("acquire", tokens), "settled", ("release", 12), "recorded"]


async def test_without_a_bound_the_default_is_held_for_each_answer_wanted() -> None:
    parts = Parts()
    await parts.admit(PRINCIPAL, make_job(choices=3))
    await parts.admit(PRINCIPAL, make_job(operation="embeddings", choices=3))
    await parts.admit(PRINCIPAL, make_job(operation="completions", choices=3, prompts=4))
    body = len(make_job().body)
    assert parts.log == [("acquire", body + 3000), ("acquire", body), ("acquire", body + 12_000)]


async def test_who_has_budgets_gets_a_hold() -> None:
    parts = Parts()
    grant = await parts.admit(PAYING)
    assert isinstance(grant, Grant)
    assert isinstance(grant.hold, Held)
    size = len(make_job().body)
    assert ("reserve", Amount(4 * size + 50, 3)) in parts.log, "the worst case"
    assert (grant.prompt_tokens, grant.prompt_held, grant.answer_bound) == (size, 4 * size, 0)


@pytest.mark.parametrize(
    ("facts", "most"),
    [
        (UNKNOWN, 5000),
        (ModelFacts(answer=700), 700),
        (ModelFacts(context=2000), 2000 - 13 - 13 // 8 - CONTEXT_MARGIN),
        (ModelFacts(context=2000, answer=700), 700),
        (ModelFacts(context=1), 1),
    ],
)
async def test_who_sets_no_bound_gets_the_models_or_that_of_the_settings(facts: ModelFacts, most: int) -> None:
    parts, size = Parts(), len(make_job().body)
    parts.facts, parts.held = facts, Held(answer_tokens=3 * most)
    grant = await parts.admit(PAYING, make_job(choices=3))
    assert isinstance(grant, Grant)
    assert _figures(parts.need) == (size, 4 * size, 3 * most, 3)
    assert grant.answer_bound == most


async def test_a_bound_of_the_callers_own_stays_what_it_is() -> None:
    parts, size = Parts(), len(make_job().body)
    parts.facts = ModelFacts(context=20, answer=10)
    grant = await parts.admit(PAYING, make_job(choices=2, max_output_tokens=50))
    assert isinstance(grant, Grant)
    assert _figures(parts.need) == (size, 4 * size, 100, 100)
    assert grant.answer_bound == 0


async def test_who_lives_on_what_is_left_is_bounded_by_it_and_pays_no_more_of_a_prompt_than_was_held() -> None:
    parts = Parts()
    parts.held = Held(answer_tokens=90, whole=False)
    grant = await parts.admit(PAYING, make_job(choices=2))
    assert isinstance(grant, Grant)
    assert (grant.answer_bound, grant.prompt_held) == (45, grant.prompt_tokens)


async def test_vectors_have_no_answer_to_bound() -> None:
    parts = Parts()
    grant = await parts.admit(PAYING, make_job(operation="embeddings"))
    assert isinstance(grant, Grant)
    assert (grant.answer_bound, _figures(parts.need)[2:]) == (0, (0, 0))


def _figures(need: Need) -> tuple[int, int, int, int]:
    return need.prompt, need.prompt_most, need.answers_most, need.answers_least


@pytest.mark.parametrize("name", ["ill", "price", "limit"])
async def test_what_is_refused_before_the_reservation_reserves_nothing(name: str) -> None:
    parts = Parts()
    setattr(parts, name, STORE_UNAVAILABLE)
    assert await parts.admit(PAYING) == STORE_UNAVAILABLE
    assert not any(isinstance(each, tuple) and each[0] in ("reserve", "release") for each in parts.log)


@pytest.mark.requirement("A078")
async def test_a_refused_reservation_gives_the_place_back() -> None:
    parts = Parts()
    parts.budget = BROKE
    assert await parts.admit(PAYING) == BROKE
    assert parts.log[-1] == ("release", None)
    parts.budget = RuntimeError("a defect, or a caller who leaves")
    with pytest.raises(RuntimeError):
        await parts.admit(PAYING)
    assert parts.log[-1] == ("release", None)


async def test_a_refused_request_is_recorded_and_holds_nothing() -> None:
    parts = Parts()
    parts.service.settle(settlement(None))
    assert parts.log == ["recorded"]


async def test_a_signed_body_must_be_the_one_that_came() -> None:
    parts, who, job = Parts(), caller(), make_job()
    who.body_sha256 = hashlib.sha256(job.body).hexdigest().upper()
    assert isinstance(await parts.service.admit(who, PRINCIPAL, job), Grant)
    who.body_sha256 = hashlib.sha256(b"another").hexdigest()
    assert await parts.service.admit(who, PRINCIPAL, job) == BODY_NOT_SIGNED


async def test_running_requests_of_a_revoked_key_are_to_be_cut() -> None:
    parts = Parts()
    grant, other = await parts.admit(PAYING), await parts.admit(PRINCIPAL)
    assert isinstance(grant, Grant)
    assert isinstance(other, Grant)
    assert await parts.service.attend([grant, other]) == []
    parts.bad = [(PAYING, KEY_REVOKED)]
    assert await parts.service.attend([grant, other]) == [(grant, KEY_REVOKED)]


async def test_a_model_that_nobody_has_is_not_one_without_a_price() -> None:
    parts = Parts()
    parts.price = Refusal(403, "permission_error", "model_has_no_price", "", "model")
    assert await parts.admit(PAYING) == parts.price
    refusal = await parts.admit(PAYING, make_job(model="x"))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")
    assert "`x` does not exist" in refusal.message
    unnamed = await parts.admit(PAYING, make_job(model=""))
    assert isinstance(unnamed, Refusal)
    assert (unnamed.status, unnamed.param) == (400, "model")
    parts.price = Refusal(503, "overloaded_error", "any other", "")
    assert await parts.admit(PAYING, make_job(model="x")) == parts.price


async def test_what_a_principal_may_use_is_what_would_be_let_in() -> None:
    parts = Parts()
    assert parts.service.may_use(PRINCIPAL, "m") is None
    refusal = parts.service.may_use(Principal("k", models=("a",)), "m")
    assert isinstance(refusal, Refusal)
    assert "`m`" in refusal.message
    parts.price = Refusal(403, "permission_error", "model_has_no_price", "", "model")
    assert parts.service.may_use(PRINCIPAL, "m") == parts.price
