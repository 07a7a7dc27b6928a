from typing import Any

from zuebee.contracts.admission import ANONYMOUS, Grant, Settlement
from zuebee.contracts.inference import Usage
from zuebee.telemetry.series import OTHER, Tallies, Tally, key_of


def settled(**changes: Any) -> Settlement:
    fields: dict[str, Any] = {
        "request_id": "r", "method": "POST", "route": "/v1/chat/completions", "address": "", "at_s": 0.0, "status": 200,
        "termination_reason": "complete", "model": "m", "backend": "a", "grant": Grant(ANONYMOUS),
        "usage": Usage(1, 2, "provider"),
    }  # fmt: skip
    return Settlement(**{**fields, **changes})


def count(tallies: Tallies, **changes: Any) -> Tally:
    key = key_of(settled(**changes))
    found = tallies.known.get(key) or tallies.find(key)
    found.count += 1
    return found


def test_equal_settlements_share_a_tally_that_is_found_at_once() -> None:
    tallies = Tallies(10)
    first = count(tallies)
    assert count(tallies) is first
    assert tallies.known[key_of(settled())] is first
    assert first.count == 2


def test_sums_leave_labels_out_and_add_up() -> None:
    tallies = Tallies(10)
    for status, code in ((200, ""), (429, "slow"), (429, "busy")):
        count(tallies, status=status, code=code)
    assert tallies.sums(lambda of: of.status, lambda each: each.count) == {200: 1, 429: 2}
    assert tallies.sums(lambda of: of.code or None, lambda each: each.count) == {"slow": 1, "busy": 1}


def test_what_was_not_let_in_has_no_model_and_no_source() -> None:
    labels = count(Tallies(10), grant=None).labels
    assert (labels.model, labels.source) == (None, "")
    assert count(Tallies(10), usage=None).labels.source == "none"


def test_errors_of_a_model_count_for_it_once_a_backend_has_answered_for_it() -> None:
    tallies = Tallies(10)
    assert count(tallies, status=500).labels.model == OTHER
    assert count(tallies).labels.model == "m"
    assert count(tallies, status=500).labels.model == "m"


def test_there_are_never_more_than_so_many() -> None:
    tallies = Tallies(1000, max_tallies=50, max_known=60)
    for number in range(500):
        count(tallies, model=f"m{number}", route=f"/{number}", code=f"c{number}")
        assert len(tallies.known) <= 60
    assert len(list(tallies)) == 51
    assert sum(each.count for each in tallies) == 500
