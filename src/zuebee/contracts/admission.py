"""May this request run, at whose cost, and what became of it: what the edge asks, and what the rooms behind
admission answer.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, Protocol

from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import Caller as Caller
from zuebee.contracts.inference import Headers, Job, Usage
from zuebee.contracts.inference import Priority as Priority

Period = Literal["daily", "weekly", "monthly", "never"]
"""When a budget starts again: at midnight, on Monday, on the first (UTC), or not at all."""


@dataclass(frozen=True)
class Limit:
    """One rule of how much and how fast. Equal `subject`, `kind` and `window_s` share a counter.

    `subject` says who is counted: `key:ID`, `user:ID`, `team:ID`, `organization:ID`, `model:NAME`, `path:PATH`,
    `address:IP`, `priority:CLASS` or `global`. `window_s` is 0 for `concurrent`. With a `burst` the window is a token
    bucket: `amount` a window on average, `burst` at once. `on_store_down`: see `LimitSettings.on_store_down`.
    """

    subject: str
    kind: Literal["requests", "tokens", "concurrent"]
    amount: int
    window_s: int = 0
    burst: int = 0
    on_store_down: Literal["share", "open", "closed"] = "share"


@dataclass(frozen=True)
class Budget:
    """What may be spent from one account of the ledger.

    `account` names it for ever (`key:ID/tokens/monthly`). `unit` is `tokens`, or a currency: then amounts are
    nano-units of it. `limit` is granted anew in each period; None: only what was granted (prepaid). `used_before`
    counts as used in a period `never`.
    """

    account: str
    unit: str
    period: Period
    limit: int | None
    used_before: int = 0


@dataclass(frozen=True)
class Principal:
    """Who calls, and what that entitles to. `key_id` names the key without giving it away; empty: an open gateway.

    `models` and `endpoints`: what may be used, `*` at the end matches any rest; empty: all. `credential` is the
    authenticator's handle of the credential that was shown (`Authenticator.recheck`). `lineage`: the id of the first
    of the keys that replaced one another, when that is not `key_id`: limits of the key count for all of them.
    """

    key_id: str = ""
    name: str = ""
    user_id: str = ""
    team_id: str = ""
    organization_id: str = ""
    plan: str = ""
    priority: Priority = "normal"
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    credential: str = ""
    lineage: str = ""


ANONYMOUS: Final = Principal()

MAX_TAGS: Final = 50
MAX_TAGS_CHARS: Final = 4096
"""Of a principal: each of its usage records and events has all of them."""


def some_tags(*lists: Iterable[str]) -> tuple[str, ...]:
    """All tags of these lists, each once; from the first on that does not fit into the bounds none any more."""
    tags = tuple(dict.fromkeys(tag for tags in lists for tag in tags))[:MAX_TAGS]
    ends = accumulate(map(len, tags))
    return tuple(tag for tag, end in zip(tags, ends, strict=True) if end <= MAX_TAGS_CHARS)


class Amount:
    """What a request costs: tokens, and money in nano-units. Both between 0 and MAX_AMOUNT."""

    def __init__(self, tokens: int, cost_nano: int = 0) -> None:
        self.tokens: Final = tokens
        self.cost_nano: Final = cost_nano

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Amount) and self.tokens == other.tokens and self.cost_nano == other.cost_nano

    def __hash__(self) -> int:
        return hash((self.tokens, self.cost_nano))

    def __repr__(self) -> str:
        return f"Amount({self.tokens}, {self.cost_nano})"


MAX_AMOUNT: Final = 1 << 53
"""The most that one request can cost or hold, in tokens or in nano-units."""

MAX_BALANCE: Final = 1 << 62
"""The most that a budget can grant, a payment bring and an account be granted in its life, or in a period."""

NOTHING: Final = Amount(0)


class Need:
    """How many tokens a request may take: its prompt as estimated and at most, its answers at most and at least."""

    def __init__(self, prompt: int, prompt_most: int, answers_most: int, answers_least: int) -> None:
        self.prompt: Final = prompt
        self.prompt_most: Final = prompt_most
        self.answers_most: Final = answers_most
        self.answers_least: Final = answers_least


class Hold(Protocol):
    """A reservation in the ledger."""

    @property
    def answer_tokens(self) -> int:
        """How long the answers may be, all together, for what is held, if the prompt is as long as estimated."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the worst case is held, not only what was left."""
        ...

    @property
    def secured(self) -> bool:
        """Whether it is on disk: no byte may reach the client before."""
        ...

    @property
    def joined(self) -> bool:
        """Whether the settlement that `wait` was given is on disk with it."""
        ...

    async def wait(self, settlement: "Settlement | None" = None) -> Refusal | None:
        """Wait until it is on disk; a refusal when it cannot be: then the request must not be answered.

        `settlement`: what it is to be settled with at once. Where it has not gone out yet it is written together with
        that, and is `joined` then, also for a caller who does not wait for the end: the settlement must stay as it is,
        and `Admission.settle` only tells the others. Otherwise it is still to be settled.
        """
        ...


class Permit(Protocol):
    """A permit taken in the limits."""

    def headers(self) -> Headers:
        """`x-ratelimit-*` fields for the answer."""
        ...


class Grant:
    """Permission for one request. It must be given back exactly once, to `Admission.settle`.

    The prompt probably has `prompt_tokens`; `prompt_held` were held for it, and who leaves before the backend has
    counted it pays these. `answer_bound`: how long each answer may be for what is held, where its caller has not said;
    0: as long as it likes. The edge fills in `usage_so_far` as soon as a stream begins, so that `Admission.attend` can
    see what it has cost.
    """

    def __init__(
        self,
        principal: Principal,
        hold: Hold | None = None,
        permit: Permit | None = None,
        usage_so_far: "Callable[[], Usage | None] | None" = None,
        prompt_tokens: int = 0,
        prompt_held: int = 0,
        answer_bound: int = 0,
    ) -> None:
        self.principal = principal
        self.hold = hold
        self.permit = permit
        self.usage_so_far = usage_so_far
        self.prompt_tokens = prompt_tokens
        self.prompt_held = prompt_held
        self.answer_bound = answer_bound


TerminationReason = Literal[
    "complete", "client_gone", "upstream_broken", "timeout", "shutdown", "cut", "refused", "failed"
]
"""How a request ended: whole; the client left; the backend broke off; a deadline passed; the gateway stopped; the
gateway cut it, for its key was revoked or its budget ran out; an error was the answer (ours or the backend's); a
defect of ours."""


class Settlement:
    """All there is to say about one request when it is over. Times in seconds; -1 where there was none.

    `cost_nano` is filled in by billing. `backend_url` is where the answer came from. `early`: the permit that was taken
    before the body was read.
    """

    def __init__(
        self,
        request_id: str,
        method: str,
        route: str,
        address: str,
        at_s: float,
        status: int = 0,
        termination_reason: TerminationReason = "failed",
        code: str = "",
        principal: Principal = ANONYMOUS,
        grant: Grant | None = None,
        model: str = "",
        stream: bool = False,
        backend: str = "",
        backend_url: str = "",
        attempts: int = 0,
        usage: Usage | None = None,
        cost_nano: int = 0,
        duration_s: float = 0.0,
        first_token_s: float = -1.0,
        request_bytes: int = 0,
        response_bytes: int = 0,
        client_request_id: str = "",
        early: Permit | None = None,
    ) -> None:
        self.request_id = request_id
        self.method = method
        self.route = route
        self.address = address
        self.at_s = at_s
        self.status = status
        self.termination_reason = termination_reason
        self.code = code
        self.principal = principal
        self.grant = grant
        self.model = model
        self.stream = stream
        self.backend = backend
        self.backend_url = backend_url
        self.attempts = attempts
        self.usage = usage
        self.cost_nano = cost_nano
        self.duration_s = duration_s
        self.first_token_s = first_token_s
        self.request_bytes = request_bytes
        self.response_bytes = response_bytes
        self.client_request_id = client_request_id
        self.early = early


class Admission(Protocol):
    """The edge's only way to let a request in."""

    def screen(self, caller: Caller) -> Refusal | None:
        """Why a request for which nobody need be known (health, unknown paths) is not even looked at.

        `identify` does this by itself.
        """
        ...

    def identify(self, caller: Caller) -> Coroutine[Any, Any, Principal | Refusal]:
        """Who is calling, and may they knock here at all?"""
        ...

    def may_use(self, principal: Principal, model: str) -> Refusal | None:
        """Why no request of the principal for this model would be let in."""
        ...

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        """Take a permit to be among the requests that run, for one whose body has to be waited for.

        It is given back by `settle` (`Settlement.early`) or `leave`; `admit` makes it the permit of the `Job.early`.
        None: nobody counts.
        """
        ...

    def leave(self, early: Permit) -> None:
        """Give such a permit back."""
        ...

    async def admit(self, caller: Caller, principal: Principal, job: Job) -> Grant | Refusal:
        """May this run now? A `Grant` holds what was reserved."""
        ...

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        """The request is over: give back what its grant held and account for it. Exactly once for each request.

        Never waits and never fails, so that no leaving client can prevent it. What it returns, if anything, can be
        awaited: it is done when the settlement survives the death of this process (a power cut may still take it, for
        some milliseconds; never a hold that is `secured`), or when that takes too long to keep a client waiting. None:
        it does already, or nobody need wait.
        """
        ...

    async def attend(self, grants: Sequence[Grant], early: Sequence[Permit] = ()) -> Sequence[tuple[Grant, Refusal]]:
        """Look after running requests (once a second): renew what they hold. Answers with those to be cut, and why.

        `early`: the permits of those whose body still comes.
        """
        ...


class Authenticator(Protocol):
    """Who is calling? Behind admission."""

    def identify(self, caller: Caller) -> Coroutine[Any, Any, Principal | Refusal]:
        """The principal of the caller's credential. Any error on the way is a refusal."""
        ...

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        """Those whose credential would be refused by now. An answer may be as old as the cache allows."""
        ...


class Firewall(Protocol):
    """What may not even be asked? Behind admission. Decides at once and counts what it decided."""

    def check_caller(self, caller: Caller) -> Refusal | None:
        """Before the credential is looked at and the body is read."""
        ...

    def check_job(self, caller: Caller, job: Job) -> Refusal | None:
        """When the body is there."""
        ...


class Limiter(Protocol):
    """How much, how fast? Behind admission."""

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        """Take a permit for one request in those limits on requests at once that its body does not decide about.

        None: there are none. It must be given back (`release`), unless `acquire` took it over.
        """
        ...

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Permit | Refusal:
        """Take a permit for one request in all limits that it falls under, or in none.

        `tokens` is the estimate that token limits are charged with. `job.early`, if there is one, is given up for it in
        the same moment: nobody comes in between.
        """
        ...

    def release(self, permit: Permit, tokens: int | None) -> None:
        """Give the permit back. `tokens`: what was really used; None: the request cost nothing. Never waits."""
        ...

    async def attend(self, permits: Sequence[Permit]) -> None:
        """Renew the leases of running requests."""
        ...

    def blocked(self, address: str) -> Refusal | None:
        """Whether an address has failed to authenticate too often, lately."""
        ...

    def failed(self, address: str) -> None:
        """An address failed to authenticate."""
        ...


class Billing(Protocol):
    """What does it cost, and may it be spent? Behind admission."""

    def quote(self, principal: Principal, job: Job, need: Need) -> Amount | Refusal:
        """What the worst case costs; a refusal when the model has no price, but there are money budgets."""
        ...

    def unpriced(self, principal: Principal, model: str) -> Refusal | None:
        """Why no request of the principal for this model would be quoted."""
        ...

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> "Hold | Refusal":
        """Hold a quoted amount in all budgets of the principal, or in none. The answer is sure, but not yet on disk.

        Where the worst case does not fit, what is left is held, if it covers what the request probably takes and no
        other request lives on what is left. Else this waits a moment for others to give back what they do not need.
        """
        ...

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        """Post or void the hold of the settlement's grant, and keep its usage record, in one transaction.

        Also for grants without a hold: then only the record is kept. See `Admission.settle`.
        """
        ...

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        """Renew holds with what was delivered so far, and extend those that run short.

        Answers with those that cannot be extended and must be cut.
        """
        ...

    def unable(self) -> Refusal | None:
        """Why no metered request can be let in just now: the store failed, or the outbox is full."""
        ...


class Recorder(Protocol):
    """Is told of each settlement (metrics, access log). Behind admission."""

    def record(self, settlement: Settlement) -> None:
        """Take note of one. Never waits."""
        ...
