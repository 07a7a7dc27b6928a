"""PURE. A settlement as a row of the usage records."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from zuebee.contracts.admission import Grant, Principal, Settlement
from zuebee.contracts.inference import Job, Usage
from zuebee.contracts.limits import period_start_s
from zuebee.contracts.usage import RECORD_COLUMNS
from zuebee.ledger.journal_rows import HoldContext, context_of

COLUMNS = RECORD_COLUMNS
DAY_S: Final = 86400
ORPHAN: Final = "owner_lost"

Row = tuple[Any, ...]


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
        principal.organization_id,
        principal.plan,
        principal.priority,
        settlement.model,
        settlement.method,
        settlement.route,
        1 if settlement.stream else 0,  # a bool would be asked for an adapter each time
        settlement.status,
        settlement.termination_reason,
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


# Places in COLUMNS, as the compiler can use them; a test holds them to their names.
AT_S: Final = 1
KEY_ID: Final = 2
USER_ID: Final = 4
ORGANIZATION_ID: Final = 6
MODEL: Final = 9
IS_STREAM: Final = 12
PROMPT_TOKENS: Final = 19
COMPLETION_TOKENS: Final = 20
CACHED_TOKENS: Final = 21
COST_NANO: Final = 23


def days(rows: Iterable[Row]) -> list[tuple[str, int, int, int, int, int]]:
    """What records add to the totals of their keys and days: requests, tokens in and out, cost."""
    totals: dict[tuple[str, int], _Day] = {}
    last = _Day("", -1)  # most of a transaction are alike
    for row in rows:
        key_id: str = row[KEY_ID]
        at_s: float = row[AT_S]
        day = int(at_s) // DAY_S
        if day != last.day or key_id != last.key_id:
            known = totals.get((key_id, day))
            if known is None:
                known = totals[key_id, day] = _Day(key_id, day)
            last = known
        last.requests += 1
        last.prompt += row[PROMPT_TOKENS] or 0
        last.completion += row[COMPLETION_TOKENS] or 0
        last.cost_nano += row[COST_NANO]
    return [(d.key_id, d.day, d.requests, d.prompt, d.completion, d.cost_nano) for d in totals.values()]


def hold_context(principal: Principal, job: Job, at_s: float) -> HoldContext:
    """The context of a request that begins."""
    p = principal
    return HoldContext(
        p.key_id, p.name, p.user_id, p.team_id, p.organization_id, p.plan, p.priority, job.model, job.path, job.stream,
        at_s,
    )  # fmt: skip


def orphan(hold_id: str, context: HoldContext | str, tokens: int, cost_nano: int) -> Settlement:
    """The settlement of a request whose process died, after what was delivered by its last heartbeat."""
    s = context_of(context) if isinstance(context, str) else context
    principal = Principal(
        s.key_id,
        s.key_name,
        s.user_id,
        s.team_id,
        s.organization_id,
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
        termination_reason="failed",
        code=ORPHAN,
        principal=principal,
        grant=Grant(principal),
        model=s.model,
        stream=s.stream,
        usage=usage,
        cost_nano=cost_nano,
    )


# What settlements add to the invoices to come: totals by organization, month, user and model.
#
# Callers choose the names of models: an organization has so many of them in a month, the rest is `other`.

MAX_NAMES: Final = 500
MAX_NAME: Final = 200
OTHER: Final = "other"
MAX_KNOWN: Final = 5_000
"""Months of organizations whose names are remembered."""

Key = tuple[str, int, str, str]
UnbilledRow = tuple[str, int, str, str, int, int, int, int, int]


class Unbilled:
    """The names of this process. `read`: those that the store has, of an organization and a month."""

    def __init__(self, read: Callable[[str, int], Iterable[str]], max_known: int = MAX_KNOWN) -> None:
        self._read = read
        self._max_known = max_known
        self._names: dict[tuple[str, int], set[str]] = {}

    def name(self, organization_id: str, month: int, model: str) -> str:
        """What stands for a model on the invoice."""
        names = self._names.get((organization_id, month))
        if names is None:
            if len(self._names) >= self._max_known:
                self._names.clear()
            names = self._names[organization_id, month] = set(self._read(organization_id, month))
        if len(model) > MAX_NAME:
            model = model[:MAX_NAME]
        if model not in names:
            if len(names) >= MAX_NAMES:
                return OTHER
            names.add(model)
        return model


class _Total:
    """What requests of the same user, model and day add up to."""

    def __init__(self, organization_id: str, day: int, user_id: str, model: str) -> None:
        self.organization_id: Final = organization_id
        self.day: Final = day
        self.user_id: Final = user_id
        self.model: Final = model
        self.requests = 0
        self.prompt = 0
        self.cached = 0
        self.completion = 0
        self.cost_nano = 0


class Totals:
    """What one transaction adds."""

    def __init__(self, unbilled: Unbilled) -> None:
        self._unbilled = unbilled
        self._totals: dict[Key, _Total] = {}
        self._last = _Total("", 0, "", "")  # most of a transaction are alike

    def add(self, row: Row) -> None:
        """One record, if its request used something."""
        organization_id: str = row[ORGANIZATION_ID]
        prompt: int = row[PROMPT_TOKENS] or 0
        completion: int = row[COMPLETION_TOKENS] or 0
        cost_nano: int = row[COST_NANO]
        if not organization_id or not (prompt or completion or cost_nano):
            return
        user_id: str = row[USER_ID]
        model: str = row[MODEL]
        at_s: float = row[AT_S]
        day, total = int(at_s) // DAY_S, self._last
        if not (
            day == total.day
            and model == total.model
            and user_id == total.user_id
            and organization_id == total.organization_id
        ):
            key = organization_id, day, user_id, model
            known = self._totals.get(key)
            if known is None:
                known = self._totals[key] = _Total(organization_id, day, user_id, model)
            total = self._last = known
        total.requests += 1
        total.prompt += prompt
        total.cached += row[CACHED_TOKENS] or 0
        total.completion += completion
        total.cost_nano += cost_nano

    def rows(self) -> list[UnbilledRow]:
        """What is to be added to `unbilled_usage`; in an order, so that no two wait for one another."""
        named: dict[Key, list[int]] = {}
        for total in self._totals.values():
            month = _month(total.day)
            name = self._unbilled.name(total.organization_id, month, total.model)
            sums = [total.requests, total.prompt, total.cached, total.completion, total.cost_nano]
            same = named.setdefault((total.organization_id, month, total.user_id, name), sums)
            if same is not sums:
                for place, more in enumerate(sums):
                    same[place] += more
        return [(*key, *sums) for key, sums in sorted(named.items())]  # type: ignore[misc]


@lru_cache(maxsize=1000)
def _month(day: int) -> int:
    """The first second of the month that a day is in."""
    return period_start_s("monthly", day * DAY_S)
