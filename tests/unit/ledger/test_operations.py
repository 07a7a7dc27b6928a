from typing import Any

import msgspec
import pytest

from tests.support.shared_ledger import AT_S, post, record, reserve, void
from zuebee.contracts.admission import MAX_BALANCE, Amount, Budget
from zuebee.contracts.inference import Usage
from zuebee.ledger import usage_rows
from zuebee.ledger.decide import TooMuch, decide, release
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import (
    Credit,
    Expire,
    Extend,
    Operation,
    Record,
    Renew,
    Settle,
    holds_of,
    settle_of,
    settle_text,
)
from zuebee.ledger.postgres.store import _stored

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
    assert cell(kept, "termination_reason") == "refused"


def test_who_left_is_recorded_as_such_and_only_if_something_was_held(ledger: Ledger) -> None:
    begin = reserve("r", BUDGETS, 50)
    begin.record = '["key_1","mine","me","","","","normal","m","/v1/x",true,1.0]'
    assert do(ledger, release(begin, left=True)) == (None, None)
    do(ledger, begin)
    _, kept = do(ledger, release(begin, left=True))
    assert [cell(kept, name) for name in ("termination_reason", "code", "status")] == [
        "client_gone",
        "client_closed_request",
        499,
    ]
    assert do(ledger, release(begin, left=True)) == (None, None)


def test_texts_are_what_every_store_can_keep() -> None:
    kept = dict(zip(usage_rows.COLUMNS, _stored(record("r\0", model="é\ud800").row), strict=True))
    assert kept["request_id"] == "r\ufffd"
    assert kept["model"] == "é?"


def test_numbers_go_to_postgresql_as_what_they_are() -> None:
    stored = dict(zip(usage_rows.COLUMNS, _stored(record("r", at_s=5, duration_s=0, stream=True).row), strict=True))
    assert isinstance(stored["at_s"], float)
    assert isinstance(stored["duration_ms"], float)
    assert (stored["is_stream"], stored["first_token_ms"]) == (True, None)


@pytest.mark.parametrize(
    "settle", [post("r", 5, 7), void("r"), Settle("r", Amount(0), None, if_held=True), Settle("", None, record("r", 5))]
)
def test_a_settlement_is_the_same_when_it_comes_from_a_file(settle: Settle) -> None:
    again = settle_of(settle_text(settle))
    if settle.record is not None:
        settle.record.billed = bool(settle.hold)
    assert again == settle


def test_what_is_no_settlement_is_an_error() -> None:
    for text in (b"", b"[]", b"{}", b'["req_1"]', b"\xff"):
        with pytest.raises(msgspec.DecodeError):
            settle_of(text)


def test_the_places_of_columns_are_where_they_are_said_to_be() -> None:
    for place, name in enumerate(usage_rows.COLUMNS):
        assert getattr(usage_rows, name.upper(), place) == place


def test_a_credit_is_granted_unless_it_is_too_much(ledger: Ledger) -> None:
    prepaid = (Budget("key:1/tokens/never", "tokens", "never", None),)
    ledger.open_path(prepaid, AT_S)
    do(ledger, Credit("pay_1", prepaid[0].account, "tokens", 70, AT_S))
    assert [balance.granted for balance in ledger.balances()] == [70]
    with pytest.raises(TooMuch):
        do(ledger, Credit("pay_2", prepaid[0].account, "tokens", MAX_BALANCE - 69, AT_S))
    assert [entry.hold for entry in ledger.take().entries if entry.kind == "grant"] == ["pay_1"]


def test_the_holds_that_operations_are_about() -> None:
    some: list[Operation] = [post("b", 1), void("a"), Settle("", None, None), Renew([("c", 1, 1)], 1.0), post("b", 1)]
    assert holds_of(some) == ["b", "a"]
