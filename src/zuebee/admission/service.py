"""May this request run, at whose cost, and what became of it. The line that each request passes."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from zuebee.contracts.admission import (
    MAX_AMOUNT,
    Authenticator,
    Billing,
    Caller,
    Firewall,
    Grant,
    Hold,
    Limiter,
    Need,
    Permit,
    Principal,
    Priority,
    Recorder,
    Settlement,
)
from zuebee.contracts.errors import (
    BODY_NOT_SIGNED,
    KEY_REVOKED,
    MAX_SHOWN_NAME,
    NAMES_NO_MODEL,
    NO_KEY,
    WHICH_MODELS,
    Refusal,
    bad_request,
    no_such_model,
)
from zuebee.contracts.inference import FactsOf, Job
from zuebee.dialects.openai import INLINE_BYTES
from zuebee.lib.aside import aside
from zuebee.lib.patterns import allowed

# Which class a request belongs to: its principal's, or a lower one that the caller asks for.

PRIORITY = b"x-priority"
_ORDER: tuple[Priority, ...] = ("low", "normal", "high")
_LOW_DIGITS, _HIGH_DIGITS = b"0123", b"789"


def priority_of(entitled: Priority, fields: Mapping[bytes, bytes]) -> Priority | Refusal:
    """`x-priority` is `low`, `normal`, `high`, or a digit (0 to 3 low, 7 to 9 high).

    It can lower the class of one request; asking for a higher one than entitled leaves the entitled one.
    """
    asked = fields.get(PRIORITY)
    if asked is None:
        return entitled
    wanted = _read(asked.strip().lower())
    if wanted is None:
        return bad_request("`x-priority` must be low, normal, high or a digit.", param="x-priority")
    return min(entitled, wanted, key=_ORDER.index)


def _read(text: bytes) -> Priority | None:
    for name in _ORDER:
        if text == name.encode():
            return name
    if len(text) != 1 or not text.isdigit():
        return None
    return "low" if text in _LOW_DIGITS else "high" if text in _HIGH_DIGITS else "normal"


# What a known caller may do: authorisation, as a step of its own after authentication.

MAX_SHOWN: Final = 10


def may_knock(principal: Principal, route: str) -> Refusal | None:
    """Whether the caller may use this endpoint."""
    if allowed(route, principal.endpoints):
        return None
    message = f"This API key may not use this endpoint. It may use: {_few(principal.endpoints)}."
    return Refusal(403, "permission_error", "endpoint_not_allowed", message)


def may_use(principal: Principal, model: str) -> Refusal | None:
    """Whether the caller may use this model."""
    if allowed(model, principal.models):
        return None
    if not model:
        return NAMES_NO_MODEL
    message = f"This API key may not use the model `{model[:MAX_SHOWN_NAME]}`. {WHICH_MODELS}"
    return Refusal(403, "permission_error", "model_not_allowed", message, "model")


def _few(patterns: Sequence[str]) -> str:
    more = f" and {len(patterns) - MAX_SHOWN} more" if len(patterns) > MAX_SHOWN else ""
    return ", ".join(f"`{pattern[:MAX_SHOWN_NAME]}`" for pattern in patterns[:MAX_SHOWN]) + more


UNAUTHENTICATED: Final = 401
MAX_LOWERED: Final = 1000
CONTEXT_MARGIN: Final = 16
NO_GUESS: Final = (NO_KEY, KEY_REVOKED)
"""A probe without a key, and a service whose key was revoked, must not shut out all who share their address."""

Served = Callable[[str], Awaitable[bool]]
"""Whether a server has this model, as far as that is known."""

SizesOf = Callable[[str, Job], tuple[int, int]]
"""(id of the key, job) -> how many tokens its prompt probably has, and how many it may have."""


async def anything_served(_: str) -> bool:
    """Nothing is known of the servers."""
    return True


class AdmissionService:
    """Firewall, authentication, permissions, limits, ledger: in this order, and back again in `settle`.

    `authenticator` and `firewall` may be replaced at any time (reload).
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        firewall: Firewall,
        limiter: Limiter,
        billing: Billing,
        recorders: Sequence[Recorder],
        sizes: SizesOf,
        facts: FactsOf,
        served: Served = anything_served,
        default_output_tokens: int,
        max_output_tokens: int,
    ) -> None:
        self.authenticator = authenticator
        self.firewall = firewall
        self._limiter = limiter
        self._billing = billing
        self._recorders = tuple(recorders)
        self._sizes = sizes
        self._facts = facts
        self._served = served
        self._default_output_tokens = default_output_tokens
        self._max_output_tokens = max_output_tokens
        self._lowered: dict[tuple[int, Priority], tuple[Principal, Principal]] = {}

    def screen(self, caller: Caller) -> Refusal | None:
        return self.firewall.check_caller(caller)

    async def identify(self, caller: Caller) -> Principal | Refusal:
        refusal = self.firewall.check_caller(caller) or self._limiter.blocked(caller.address)
        if refusal is not None:
            return refusal
        principal = await self.authenticator.identify(caller)
        if isinstance(principal, Refusal):
            if principal.status == UNAUTHENTICATED and principal not in NO_GUESS:
                self._limiter.failed(caller.address)
            return principal
        if (refusal := may_knock(principal, caller.route)) is not None:
            return refusal
        if PRIORITY not in caller.fields:
            return principal
        priority = priority_of(principal.priority, caller.fields)
        return priority if isinstance(priority, Refusal) else self._lowered_to(priority, principal)

    def _lowered_to(self, priority: Priority, principal: Principal) -> Principal:
        """The same principal each time: what others remember of it is found by its identity."""
        known = self._lowered.get((id(principal), priority))
        if known is not None and known[0] is principal:
            return known[1]
        if len(self._lowered) >= MAX_LOWERED:
            self._lowered.clear()
        lowered = principal if priority == principal.priority else replace(principal, priority=priority)
        self._lowered[id(principal), priority] = principal, lowered
        return lowered

    def may_use(self, principal: Principal, model: str) -> Refusal | None:
        return may_use(principal, model) or self._billing.unpriced(principal, model)

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        return await self._limiter.enter(caller, principal)

    def leave(self, early: Permit) -> None:
        self._limiter.release(early, None)

    async def admit(self, caller: Caller, principal: Principal, job: Job) -> Grant | Refusal:
        if len(job.body) <= INLINE_BYTES:
            refusal = self._check(caller, principal, job)
        else:
            refusal = await aside(len(job.body), partial(self._check, caller, principal, job))
        if refusal is not None:
            return refusal
        prompt_tokens, prompt_most = self._sizes(principal.key_id, job)
        bound = self._default_output_tokens if job.max_output_tokens is None else job.max_output_tokens
        answers = 0 if job.operation == "embeddings" else job.choices * job.prompts
        tokens = prompt_tokens + bound * answers
        if tokens > MAX_AMOUNT:
            tokens = MAX_AMOUNT
        if not principal.budgets:
            permit = await self._limiter.acquire(caller, principal, job, tokens)
            if isinstance(permit, Refusal):
                return permit
            return Grant(principal, None, permit, prompt_tokens=prompt_tokens)
        need = self._need(job, prompt_tokens, prompt_most, answers)
        quote = self._billing.unable() or self._billing.quote(principal, job, need)
        if isinstance(quote, Refusal):
            if quote.param == "model" and not await self._served(job.model):
                return no_such_model(job.model)
            return quote
        permit = await self._limiter.acquire(caller, principal, job, tokens)
        if isinstance(permit, Refusal):
            return permit
        hold: Hold | Refusal | None = None
        try:
            hold = await self._billing.reserve(principal, job, quote)
        finally:  # also when the caller leaves meanwhile
            if hold is None or isinstance(hold, Refusal):
                self._limiter.release(permit, None)
        if isinstance(hold, Refusal):
            return hold
        grant = Grant(principal, hold, permit)
        grant.prompt_tokens = prompt_tokens
        if hold is not None:
            grant.prompt_held = prompt_most if hold.whole else prompt_tokens
            if answers and job.max_output_tokens is None:
                grant.answer_bound = max(1, hold.answer_tokens // answers)
        return grant

    def _need(self, job: Job, prompt_tokens: int, prompt_most: int, answers: int) -> Need:
        """The worst case of a request, and the least that it can do with."""
        bound, least = job.max_output_tokens, job.max_output_tokens
        if bound is None or least is None:
            facts = self._facts(job.model)
            bound, least = facts.answer or self._max_output_tokens, 1
            if facts.context:
                # The estimate may be too low: a bound that is too long is refused, and costs another round trip.
                room = facts.context - prompt_tokens - prompt_tokens // 8 - CONTEXT_MARGIN
                bound = min(bound, room if room > 0 else 1)
        return Need(prompt_tokens, prompt_most, min(bound * answers, MAX_AMOUNT), min(least * answers, MAX_AMOUNT))

    def _check(self, caller: Caller, principal: Principal, job: Job) -> Refusal | None:
        """All that looks at the body."""
        if caller.body_sha256 and not _is_digest_of(caller.body_sha256, job.body):
            return BODY_NOT_SIGNED
        return may_use(principal, job.model) or self.firewall.check_job(caller, job)

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        grant = settlement.grant
        pending = None
        if settlement.early is not None:
            self._limiter.release(settlement.early, None)
        if grant is not None:
            pending = self._billing.settle(settlement)
            if grant.permit is not None:
                usage = settlement.usage
                self._limiter.release(grant.permit, None if usage is None else usage.total_tokens)
        for recorder in self._recorders:
            recorder.record(settlement)
        return pending

    async def attend(self, grants: Sequence[Grant], early: Sequence[Permit] = ()) -> Sequence[tuple[Grant, Refusal]]:
        # First: what else fails must not let the leases of running requests run out.
        await self._limiter.attend([*early, *(grant.permit for grant in grants if grant.permit is not None)])
        cut = list(await self._billing.attend(grants))
        known = {grant.principal.credential: grant.principal for grant in grants if grant.principal.credential}
        refused = {p.credential: refusal for p, refusal in await self.authenticator.recheck(list(known.values()))}
        cut += [(grant, refused[c]) for grant in grants if (c := grant.principal.credential) in refused]
        return cut


def _is_digest_of(digest: str, body: bytes) -> bool:
    return hmac.compare_digest(digest.lower(), hashlib.sha256(body).hexdigest())
