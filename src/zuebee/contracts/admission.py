"""May this request run, and what became of it: what the edge asks, and what the rooms behind admission answer."""

from collections.abc import Coroutine
from typing import Any, Literal, Protocol

import msgspec

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job, Usage


class Caller(msgspec.Struct, gc=False):
    """Who knocks: what is known before a byte of the body is read.

    `route` is the path as the route table has it. `fields`: the header fields by their name in lower case; of a field
    that was sent several times, the last.
    """

    method: str
    route: str
    fields: dict[bytes, bytes]
    address: str


class Limits(msgspec.Struct, frozen=True):
    """How much and how fast. 0 is no limit."""

    requests_per_minute: int = 0
    max_concurrent: int = 0
    total_tokens: int = 0
    tokens_used_before: int = 0
    token_period: Literal["daily", "weekly", "monthly", "never"] = "never"


class Principal(msgspec.Struct, frozen=True):
    """Who calls. `key_id` names the key without giving it away; empty for an open gateway."""

    key_id: str = ""
    name: str = ""
    user_id: str = ""
    limits: Limits = Limits()


ANONYMOUS = Principal()


class Grant(msgspec.Struct, gc=False):
    """Permission for one request. It must be given back exactly once, to `Admission.settle`."""

    principal: Principal


Ending = Literal["complete", "client_gone", "upstream_broken", "timeout", "shutdown", "refused", "failed"]
"""How a request ended: whole; the client left; the backend broke off; a deadline passed; the gateway stopped;
an error was the answer (ours or the backend's); a defect of ours."""


class Settlement(msgspec.Struct, gc=False):
    """All there is to say about one request when it is over. Times in seconds; -1 where there was none."""

    request_id: str
    method: str
    route: str
    address: str
    at_s: float
    status: int = 0
    ending: Ending = "failed"
    code: str = ""
    principal: Principal = ANONYMOUS
    grant: Grant | None = None
    model: str = ""
    stream: bool = False
    backend: str = ""
    attempts: int = 0
    usage: Usage | None = None
    duration_s: float = 0.0
    first_token_s: float = -1.0
    request_bytes: int = 0
    response_bytes: int = 0
    client_request_id: str = ""


class Admission(Protocol):
    """The edge's only way to let a request in."""

    def identify(self, caller: Caller) -> Coroutine[Any, Any, Principal | Refusal]:
        """Who is calling?"""
        ...

    async def admit(self, principal: Principal, job: Job) -> Grant | Refusal:
        """May this run now? A `Grant` holds what was reserved."""
        ...

    def settle(self, settlement: Settlement) -> None:
        """The request is over: give back what its grant held and account for it. Exactly once for each request.

        Never waits and never fails, so that no leaving client can prevent it.
        """
        ...


class Authenticator(Protocol):
    """Who is calling? Behind admission."""

    def identify(self, caller: Caller) -> Coroutine[Any, Any, Principal | Refusal]:
        """The principal of the caller's credential. Any error on the way is a refusal."""
        ...


class Limiter(Protocol):
    """How much, how fast? Behind admission."""

    async def acquire(self, principal: Principal) -> Refusal | None:
        """Take a place for one request, in all limits or in none."""
        ...

    def release(self, principal: Principal, usage: Usage | None) -> None:
        """Give the place back and charge the tokens."""
        ...


class Recorder(Protocol):
    """Keeps settlements. Behind admission."""

    def record(self, settlement: Settlement) -> None:
        """Keep one. Never waits."""
        ...
