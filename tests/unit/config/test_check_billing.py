"""Prices in a file: each mistake with the place and the message that mends it."""

import pytest

from zuebee.config.load import ConfigError, Loaded, loads
from zuebee.config.validate_policies import price_nano, since_s

BASE = "api_keys: [{key: sk-a-real-key-0001}]\nbackends: [{url: 'http://a:1'}]\n"


def read(billing: str) -> Loaded:
    return loads(f"{BASE}billing:\n  {billing}\n", "f", {}, lambda path: True)


@pytest.mark.parametrize(
    ("text", "nano"), [("2.50", 2_500_000_000), ("0", 0), ("1e-9", 1), (" 9007199 ", 9007199 * 10**9)]
)
def test_a_price_is_read_exactly(text: str, nano: int) -> None:
    assert price_nano(text) == nano


@pytest.mark.parametrize("text", ["", "free", "-1", "NaN", "Infinity", "1,5", "1e-10", "9007200", "1e999999", "0x10"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        price_nano(text)


@pytest.mark.parametrize(
    ("text", "at_s"),
    [("1970-01-02", 86400.0), ("1970-01-01T01:00:00+01:00", 0.0), ("1970-01-01t00:00:05z", 5.0)],
)
def test_a_time_is_read(text: str, at_s: float) -> None:
    assert since_s(text) == at_s


@pytest.mark.parametrize(
    ("billing", "expected"),
    [
        ("prices: [{model: m, input_per_million: abc}]", "input_per_million: expected a decimal number"),
        ("prices: [{model: m, input_per_million: '1', output_per_million: '-1'}]", "output_per_million: expected"),
        ("prices: [{model: m, input_per_million: '1', cached_input_per_million: x}]", "cached_input_per_million"),
        ("prices: [{model: 'a*b', input_per_million: '1'}]", "with `*` at its end at most"),
        ("prices: [{model: m, since: soon, input_per_million: '1'}]", "since: expected a date"),
        (
            "prices: [{model: m, input_per_million: '1'}, {model: m, input_per_million: '2'}]",
            "the same model and time as `billing.prices[0]`",
        ),
        ("unknown_price: cap", "required by `unknown_price: cap`"),
    ],
)
def test_a_mistake_is_named_with_its_place(billing: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(billing)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("billing", "expected"),
    [
        ("currency: EUR", "built-in prices are in USD"),
        ("cap: {model: '*', input_per_million: '1'}", "has no effect under `unknown_price: deny`"),
    ],
)
def test_what_has_no_effect_is_a_warning(billing: str, expected: str) -> None:
    assert any(expected in warning for warning in read(billing).warnings)


def test_prices_in_order_pass() -> None:
    rows = "[{model: 'gpt-*', input_per_million: '1.5'}, {model: 'gpt-*', since: 2027-01-01, input_per_million: '1'}]"
    assert read(f"prices: {rows}").warnings == []
