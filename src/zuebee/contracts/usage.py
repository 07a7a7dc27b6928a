"""What others are told of one request when it is over, and the chain of hashes that its entries stand in."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

RECORD_COLUMNS = (
    "request_id", "at_s", "key_id", "key_name", "user_id", "team_id", "organization_id", "plan", "priority", "model",
    "method", "endpoint", "is_stream", "status", "termination_reason", "code", "backend", "backend_url", "attempts",
    "prompt_tokens", "completion_tokens", "cached_tokens", "usage_source", "cost_nano", "duration_ms",
    "first_token_ms", "tags",
)  # fmt: skip
"""What is kept of a request, in the order of a row of `usage_records`. Its event is made of it."""


class UsageEvent(msgspec.Struct, frozen=True):
    """One usage record, as it goes to reporters (as JSON).

    The first eleven names are LLMProxy's. `timestamp` is RFC 3339 in UTC with `Z`, `latency_ms` whole milliseconds,
    `cost_nano` nano-units of `currency`. Token figures are 0 where nothing is known; `usage_source` is then empty.
    """

    request_id: str
    user_id: str
    api_key: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    is_stream: bool
    endpoint: str
    timestamp: str
    backend_url: str
    method: str
    path: str
    status_code: int
    latency_ms: int
    key_id: str
    key_name: str
    team_id: str
    organization_id: str
    plan: str
    priority: str
    tags: tuple[str, ...]
    cached_tokens: int
    usage_source: str
    termination_reason: str
    code: str
    backend: str
    attempts: int
    first_token_ms: int | None
    cost_nano: int
    currency: str


# The entries of each owner as a chain of hashes: who changes one of them must change all that follow.

HEAD: Final = "chain/"
"""What `counters` notes by the name `chain/OWNER`: the sequence of that owner's newest batch, a while ago. A chain that
ends before was cut off.
"""

_encode = msgspec.json.Encoder().encode


def next_hash(previous: str, entries: Sequence[tuple[Any, ...]]) -> str:
    """The hash of a batch, in hex: SHA-256 over the one before and, as JSON, the rows of its entries in their order.

    A row has the columns of `ledger_entries` from `batch` to `at_s`.
    """
    return hashlib.sha256(previous.encode() + _encode(entries)).hexdigest()


def head_name(owner: int) -> str:
    """Under which name `counters` has the end of an owner's chain."""
    return f"{HEAD}{owner}"
