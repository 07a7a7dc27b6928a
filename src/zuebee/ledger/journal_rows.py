"""PURE. What is kept beside a hold, for the record of its request if its process dies; and lines of older journals."""

import msgspec

from zuebee.contracts.admission import Grant, Principal, Settlement
from zuebee.contracts.inference import Usage


class HoldContext(msgspec.Struct, array_like=True, gc=False):
    """What is known of a request when it begins: kept with its hold, for the record if its process dies."""

    key_id: str
    key_name: str
    user_id: str
    team_id: str
    organization_id: str
    plan: str
    priority: str
    model: str
    route: str
    stream: bool
    at_s: float


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(HoldContext).decode


def context_text(context: HoldContext | str) -> str:
    """A context as it is stored."""
    return context if isinstance(context, str) else _encode(context).decode()


def context_of(text: str) -> HoldContext:
    """The context that was stored so."""
    return _decode(text)


# Lines of the journal as earlier versions wrote them: what a settlement says beyond the context of its hold.


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """What a settlement says beyond what was known when the request began (`HoldContext`). `prompt_tokens` is -1 where
    no usage is known.
    """

    hold: str
    at_s: float
    method: str
    status: int
    termination_reason: str
    code: str
    backend: str
    backend_url: str
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    source: str
    cost_nano: int
    duration_s: float
    first_token_s: float
    tags: tuple[str, ...]


_decode_outcome = msgspec.json.Decoder(Outcome).decode


def outcome_of(text: bytes) -> Outcome:
    """The outcome that was kept so. Raises msgspec.DecodeError."""
    return _decode_outcome(text)


def settlement_of(outcome: Outcome, context: HoldContext | str) -> Settlement:
    """The settlement that a process did not live to write."""
    o = outcome
    s = context_of(context) if isinstance(context, str) else context
    principal = Principal(
        s.key_id, s.key_name, s.user_id, s.team_id, s.organization_id, s.plan,
        s.priority,  # type: ignore[arg-type]
        o.tags,
    )  # fmt: skip
    usage = None
    if o.prompt_tokens >= 0:
        usage = Usage(o.prompt_tokens, o.completion_tokens, o.source, o.cached_tokens)  # type: ignore[arg-type]
    return Settlement(
        request_id=o.hold,
        method=o.method,
        route=s.route,
        address="",
        at_s=o.at_s,
        status=o.status,
        termination_reason=o.termination_reason,  # type: ignore[arg-type]
        code=o.code,
        principal=principal,
        grant=Grant(principal),
        model=s.model,
        stream=s.stream,
        backend=o.backend,
        backend_url=o.backend_url,
        attempts=o.attempts,
        usage=usage,
        cost_nano=o.cost_nano,
        duration_s=o.duration_s,
        first_token_s=o.first_token_s,
    )
