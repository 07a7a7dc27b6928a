from tests.support.fakes import make_job
from zuebee.contracts.admission import Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.ledger import usage_rows
from zuebee.schema.tables import usage_records

PRINCIPAL = Principal("key_1", "dev", "ann", "ml", "acme", "gold", "high", ("a", "b"))


def settlement(usage: Usage | None) -> Settlement:
    return Settlement(
        "req_1", "POST", "/v1/chat/completions", "10.0.0.1", 1_790_000_000.25, 200, "complete", principal=PRINCIPAL,
        model="m", stream=True, backend="b", backend_url="http://b", attempts=1, usage=usage, cost_nano=7,
        duration_s=0.5, first_token_s=0.1,
    )  # fmt: skip


def test_a_row_fits_the_table() -> None:
    written = dict(zip(usage_rows.COLUMNS, usage_rows.row(settlement(Usage(7, 5, "provider", 2))), strict=True))
    named = {column.name for column in usage_records.columns if column.computed is None} - {"id", "currency"}
    assert set(written) == named
    assert (written["prompt_tokens"], written["cached_tokens"], written["usage_source"]) == (7, 2, "provider")
    assert (written["duration_ms"], written["first_token_ms"], written["tags"]) == (500, 100, '["a","b"]')


def test_nothing_known_is_not_zero() -> None:
    written = dict(zip(usage_rows.COLUMNS, usage_rows.row(settlement(None)), strict=True))
    assert written["prompt_tokens"] is written["completion_tokens"] is written["usage_source"] is None


def test_days_are_totals_by_key() -> None:
    some = [usage_rows.row(each) for each in (settlement(Usage(7, 5, "provider")), settlement(None))]
    assert usage_rows.days(some) == [("key_1", 20717, 2, 7, 5, 14)]


def test_a_request_whose_process_died_is_known_by_its_stub() -> None:
    stub = usage_rows.hold_context(PRINCIPAL, make_job(model="m", stream=True), 1_790_000_000.0)
    left = usage_rows.orphan("req_1", stub, 40, 9)
    assert (left.request_id, left.model, left.stream, left.at_s) == ("req_1", "m", True, 1_790_000_000.0)
    assert (left.principal.key_id, left.principal.team_id, left.principal.plan) == ("key_1", "ml", "gold")
    assert left.usage == Usage(0, 40, "partial")
    assert (left.cost_nano, left.code) == (9, "owner_lost")
    assert usage_rows.orphan("req_1", stub, 0, 0).usage is None
