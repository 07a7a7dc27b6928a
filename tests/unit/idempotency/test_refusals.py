from zuebee.contracts.idempotency import REUSED
from zuebee.idempotency.service import TOO_LARGE, UNKNOWN, in_progress


def test_only_what_waiting_helps_is_to_be_tried_again() -> None:
    assert [refusal.should_retry for refusal in (REUSED, TOO_LARGE, UNKNOWN)] == [False, False, True]
    assert in_progress(0.2).should_retry
    assert (in_progress(0.2).retry_after_s, in_progress(7).retry_after_s) == (1.0, 7)
