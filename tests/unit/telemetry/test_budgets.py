from types import SimpleNamespace
from typing import Any

import pytest

from zuebee.telemetry.series import BudgetGauges


def balance(account: str, granted: int, used: int, held: int = 0, **more: Any) -> Any:
    fields = {"unit": "tokens", "period": "monthly", "starts_at_s": 0}
    return SimpleNamespace(account=account, granted=granted, used=used, held=held, **{**fields, **more})


@pytest.mark.requirement("A081", "A302")
def test_the_budgets_closest_to_their_end_show_for_themselves() -> None:
    balances = [balance(f"key:{n}/tokens/monthly", 100, n) for n in range(100)]
    balances.append(balance("user:u/USD/monthly", 5_000_000_000, 4_000_000_000, 1_500_000_000, unit="USD"))
    gauges = BudgetGauges(lambda: balances, 3, lambda: 0.0)
    assert gauges.remaining() == [
        (("user:u/USD/monthly", "USD", "monthly"), -0.5),
        (("key:99/tokens/monthly", "tokens", "monthly"), 1.0),
        (("key:98/tokens/monthly", "tokens", "monthly"), 2.0),
    ]
    assert gauges.granted()[0][1] == 5.0
    assert dict(gauges.states()) == {
        ("user", "USD", "exhausted"): 1.0,
        ("key", "tokens", "low"): 19.0,
        ("key", "tokens", "ok"): 81.0,
    }


def test_only_the_newest_period_counts_and_it_is_read_now_and_then() -> None:
    now_s, reads = 0.0, []

    def read() -> list[Any]:
        reads.append(now_s)
        return [balance("k:1", 10, 10, starts_at_s=1), balance("k:1", 10, 2, starts_at_s=2), balance("k:2", 0, 0)]

    gauges = BudgetGauges(read, 10, lambda: now_s)
    assert sorted(amount for _, amount in gauges.remaining()) == [0.0, 8.0]
    gauges.granted()
    gauges.states()
    assert len(reads) == 1
    now_s = 10.0
    gauges.states()
    assert len(reads) == 2


def test_what_was_used_up_in_a_period_that_is_over_is_not_shown_as_used_up() -> None:
    month_s = 31 * 86400.0
    now_s = 5.0
    balances = [balance("key:1/tokens/monthly", 10, 10), balance("key:2/tokens/never", 10, 10, period="never")]
    gauges = BudgetGauges(lambda: balances, 10, lambda: now_s)
    assert dict(gauges.states()) == {("key", "tokens", "exhausted"): 2.0}
    now_s = month_s
    assert dict(gauges.states()) == {("key", "tokens", "exhausted"): 1.0}
    assert [labels[0] for labels, _ in gauges.remaining()] == ["key:2/tokens/never"]
    now_s = 5.0
    assert dict(gauges.states()) == {("key", "tokens", "exhausted"): 2.0}, "the clock was set back"
