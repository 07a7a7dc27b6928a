"""A line of a journal of an earlier version, and what was known at the start, are the settlement that it was."""

import msgspec
import pytest

from tests.support.fakes import make_job
from zuebee.contracts.admission import Grant, Principal, Settlement
from zuebee.contracts.inference import Usage, UsageSource
from zuebee.ledger import usage_rows
from zuebee.ledger.journal_rows import context_text, outcome_of, settlement_of

PRINCIPAL = Principal("k", "key", "ann", "blue", "acme", "gold", "high", ("a", "b"))


def settlement(usage: Usage | None) -> Settlement:
    return Settlement(
        "req_1", "POST", "/v1/chat/completions", "10.0.0.1", 1_794_700_000.5, 200, "complete", "", PRINCIPAL,
        Grant(PRINCIPAL), "m", True, "gpu", "http://gpu:8000", 2, usage, 17, 1.25, 0.5,
    )  # fmt: skip


def outcome_text(hold: str, s: Settlement) -> bytes:
    """As earlier versions wrote it."""
    u = s.usage
    counted = (-1, 0, 0, "") if u is None else (u.prompt_tokens, u.completion_tokens, u.cached_tokens, u.source)
    return msgspec.json.encode(
        (hold, s.at_s, s.method, s.status, s.termination_reason, s.code, s.backend, s.backend_url, s.attempts, *counted,
         s.cost_nano, s.duration_s, s.first_token_s, s.principal.tags)
    )  # fmt: skip


@pytest.mark.parametrize("source", ["provider", "partial", "estimate"])
def test_its_record_is_the_same_to_the_last_column(source: UsageSource) -> None:
    whole = settlement(Usage(5, 7, source, 3))
    stub = context_text(
        usage_rows.hold_context(PRINCIPAL, make_job(request_id="req_1", model="m", stream=True), 1_794_700_000.0)
    )
    again = settlement_of(outcome_of(outcome_text("req_1", whole)), stub)
    assert usage_rows.row(again) == usage_rows.row(whole)
    assert again.grant is not None


def test_what_nobody_counted_stays_uncounted() -> None:
    whole = settlement(None)
    stub = usage_rows.hold_context(PRINCIPAL, make_job(request_id="req_1", model="m", stream=True), 1.0)
    again = settlement_of(outcome_of(outcome_text("req_1", whole)), stub)
    assert again.usage is None
    assert usage_rows.row(again) == usage_rows.row(whole)


def test_what_is_no_outcome_is_an_error() -> None:
    for text in (b"", b"[]", b"{}", b'["req_1"]', b"\xff"):
        with pytest.raises(msgspec.DecodeError):
            outcome_of(text)
