from typing import Any

import pytest

from tests.support.shared_ledger import AT_S, post, record, reserve, void
from zuebee.contracts.admission import Amount, Budget
from zuebee.contracts.inference import Usage
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import (
    Expire,
    Extend,
    Operation,
    Record,
    Renew,
    Settle,
    decide,
    holds_of,
    release,
)

BUDGETS = (Budget("key:1/tokens/never", "tokens", "never", 100),)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(1)


def do(ledger: Ledger, operation: Operation, now_s: float = AT_S) -> Any:
    return decide(ledger, operation, now_s)


def cell(kept: Record | None, column: str) -> Any:
    assert kept is not None
    return kept.row[usage_rows.COLUMNS.index(column)]


def test_a_reservation_lives_by_the_clock_that_is_given(ledger: Ledger) -> None:
    held, kept = do(ledger, reserve("r", BUDGETS, 10, hold_s=5), AT_S + 100)
    assert isinstance(held, HoldState)
    assert held.expires_at_s == AT_S + 105
    assert kept is None


def test_an_answer_does_not_change_afterwards(ledger: Ledger) -> None:
    held, _ = do(ledger, reserve("r", BUDGETS, 10))
    do(ledger, post("r", 5))
    assert held.state == "open"


def test_an_extension_is_satisfied_with_what_was_spent(ledger: Ledger) -> None:
    do(ledger, reserve("r", BUDGETS, 10))
    extended, _ = do(ledger, Extend("r", Amount(200), Amount(90)))
    assert extended.tokens == 90
    short, _ = do(ledger, Extend("r", Amount(200), Amount(101)))
    assert isinstance(short, Short)
    assert do(ledger, Extend("unknown", Amount(1), Amount(1))) == (None, None)


def test_a_settlement_is_recorded_once(ledger: Ledger) -> None:
    do(ledger, reserve("r", BUDGETS, 10))
    operation = post("r", 5)
    assert do(ledger, operation) == (None, operation.record)
    assert do(ledger, operation) == (None, None)
    assert do(ledger, void("r")) == (None, None)


def test_without_a_hold_there_is_only_a_record(ledger: Ledger) -> None:
    free = Settle("", None, record("r", 5))
    assert do(ledger, free) == (None, free.record)
    assert do(ledger, post("of another time", 5))[1] is not None
    assert ledger.take().entries == []


def test_only_what_has_expired_is_expired(ledger: Ledger) -> None:
    begin = reserve("r", BUDGETS, 10, hold_s=5)
    begin.record = '["key_1","mine","me","","","","normal","m","/v1/x",true,1.0]'
    do(ledger, begin)
    ledger.open["r"].progress = Amount(4)
    assert do(ledger, Expire("r"), AT_S + 4) == (None, None)
    _, kept = do(ledger, Expire("r"), AT_S + 5)
    assert (cell(kept, "completion_tokens"), cell(kept, "usage_source"), cell(kept, "code")) == (
        4,
        "partial",
        "owner_lost",
    )
    assert do(ledger, Expire("r"), AT_S + 6) == (None, None)
    assert do(ledger, Expire("unknown")) == (None, None)


def test_a_hold_without_an_owner_need_not_have_expired(ledger: Ledger) -> None:
    do(ledger, reserve("r", BUDGETS, 10))
    do(ledger, Expire("r", is_ownerless=True))
    assert ledger.hold("r").state == "expired"


def test_what_comes_late_is_recorded_as_the_rest(ledger: Ledger) -> None:
    do(ledger, reserve("r", BUDGETS, 50))
    ledger.open["r"].progress = Amount(30)
    do(ledger, Expire("r", is_ownerless=True))
    late = Settle("r", Amount(40, 7), record("r", usage=Usage(15, 25, "provider", 12), cost_nano=7))
    _, kept = do(ledger, late)
    assert [cell(kept, name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")] == [
        0, 10, 0, 7,
    ]  # fmt: skip
    assert kept.event_id == "r/late"
    assert cell(kept, "request_id") == "r"
    assert do(ledger, late) == (None, None)


def test_what_comes_late_and_adds_nothing_is_not_recorded(ledger: Ledger) -> None:
    do(ledger, reserve("r", BUDGETS, 50))
    ledger.open["r"].progress = Amount(30)
    do(ledger, Expire("r", is_ownerless=True))
    assert do(ledger, post("r", 30)) == (None, None)


def test_what_was_reserved_for_nobody_is_let_go_and_recorded(ledger: Ledger) -> None:
    begin = reserve("r", BUDGETS, 50)
    assert release(begin).record is None
    begin.record = '["key_1","mine","me","","","","normal","m","/v1/x",true,1.0]'
    do(ledger, begin)
    _, kept = do(ledger, release(begin))
    assert ledger.hold("r").state == "voided"
    assert [cell(kept, name) for name in ("code", "status", "prompt_tokens")] == ["store_unavailable", 503, None]
    assert cell(kept, "ending") == "refused"


def test_who_left_is_recorded_as_such_and_only_if_something_was_held(ledger: Ledger) -> None:
    begin = reserve("r", BUDGETS, 50)
    begin.record = '["key_1","mine","me","","","","normal","m","/v1/x",true,1.0]'
    assert do(ledger, release(begin, left=True)) == (None, None)
    do(ledger, begin)
    _, kept = do(ledger, release(begin, left=True))
    assert [cell(kept, name) for name in ("ending", "code", "status")] == ["client_gone", "client_closed_request", 499]
    assert do(ledger, release(begin, left=True)) == (None, None)


def test_times_are_floats_and_texts_have_no_nul() -> None:
    kept = record("r\0", at_s=5, duration_s=0, model="é")
    assert cell(kept, "request_id") == kept.event_id == "r\ufffd"
    assert cell(kept, "model") == "é"
    assert isinstance(cell(kept, "at_s"), float)
    assert isinstance(cell(kept, "duration_ms"), float)


def test_the_holds_that_operations_are_about() -> None:
    some: list[Operation] = [post("b", 1), void("a"), Settle("", None, None), Renew([("c", 1, 1)], 1.0), post("b", 1)]
    assert holds_of(some) == ["b", "a"]
