"""PURE. A settlement as a row of the usage records."""

from functools import lru_cache
from typing import Final

import msgspec

from zuebee.billing.stub import Stub, stub_of
from zuebee.contracts.admission import Grant, Principal, Settlement
from zuebee.contracts.inference import Job, Usage
from zuebee.contracts.usage import RECORD_COLUMNS

COLUMNS = RECORD_COLUMNS
DAY_S = 86400
ORPHAN = "owner_lost"

Row = tuple[object, ...]


def row(settlement: Settlement) -> Row:
    """The values of COLUMNS."""
    usage = settlement.usage
    principal = settlement.principal
    first_token_s = settlement.first_token_s
    return (
        settlement.request_id,
        settlement.at_s,
        principal.key_id,
        principal.name,
        principal.user_id,
        principal.team_id,
        principal.organisation_id,
        principal.plan,
        principal.priority,
        settlement.model,
        settlement.method,
        settlement.route,
        1 if settlement.stream else 0,  # a bool would be asked for an adapter each time
        settlement.status,
        settlement.ending,
        settlement.code,
        settlement.backend,
        settlement.backend_url,
        settlement.attempts,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else usage.cached_tokens,
        None if usage is None else usage.source,
        settlement.cost_nano,
        settlement.duration_s * 1000,
        None if first_token_s < 0 else first_token_s * 1000,
        _json_list(principal.tags),
    )


@lru_cache(2048)
def _json_list(tags: tuple[str, ...]) -> str:
    return msgspec.json.encode(tags).decode()


class _Day:
    """What a key used on a day."""

    def __init__(self, key_id: str, day: int) -> None:
        self.key_id: Final = key_id
        self.day: Final = day
        self.requests = 0
        self.prompt = 0
        self.completion = 0
        self.cost_nano = 0


def days(settlements: list[Settlement]) -> list[tuple[str, int, int, int, int, int]]:
    """What settlements add to the totals of their keys and days: requests, tokens in and out, cost."""
    totals: dict[tuple[str, int], _Day] = {}
    last = _Day("", -1)  # most of a transaction are alike
    for settlement in settlements:
        key_id, day = settlement.principal.key_id, int(settlement.at_s) // DAY_S
        if day != last.day or key_id != last.key_id:
            known = totals.get((key_id, day))
            if known is None:
                known = totals[key_id, day] = _Day(key_id, day)
            last = known
        usage = settlement.usage
        last.requests += 1
        if usage is not None:
            last.prompt += usage.prompt_tokens
            last.completion += usage.completion_tokens
        last.cost_nano += settlement.cost_nano
    return [(d.key_id, d.day, d.requests, d.prompt, d.completion, d.cost_nano) for d in totals.values()]


def stub(principal: Principal, job: Job, at_s: float) -> Stub:
    """The stub of a request that begins."""
    p = principal
    return Stub(
        p.key_id, p.name, p.user_id, p.team_id, p.organisation_id, p.plan, p.priority, job.model, job.path, job.stream,
        at_s,
    )  # fmt: skip


def orphan(hold_id: str, stub: Stub | str, tokens: int, cost_nano: int) -> Settlement:
    """The settlement of a request whose process died, after what was delivered by its last heartbeat."""
    s = stub_of(stub) if isinstance(stub, str) else stub
    principal = Principal(
        s.key_id,
        s.key_name,
        s.user_id,
        s.team_id,
        s.organisation_id,
        s.plan,
        s.priority,  # type: ignore[arg-type]
    )
    usage = Usage(0, tokens, "partial") if tokens else None
    return Settlement(
        request_id=hold_id,
        method="POST",
        route=s.route,
        address="",
        at_s=s.at_s,
        ending="failed",
        code=ORPHAN,
        principal=principal,
        grant=Grant(principal, hold_id, s.model),
        model=s.model,
        stream=s.stream,
        usage=usage,
        cost_nano=cost_nano,
    )
