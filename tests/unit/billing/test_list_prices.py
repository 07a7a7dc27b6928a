"""The built-in prices: a dozen models by hand, and every model that the data knows."""

import itertools
import json
import time
from datetime import UTC, date, datetime

import pytest

from tests.support.billing import price
from zuebee.billing.list_prices import FILE, ListPrices
from zuebee.billing.pricing import PriceBook, Rate, cost_nano
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import MAX_AMOUNT

LIST = ListPrices()
DAY = date(2026, 11, 1)
AT_S = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("model", "prompt", "cached", "completion", "expected_nano"),
    [
        # dollars for a million: input, cached, output                   by hand, in nano-dollars
        ("gpt-4o", 1_000, 200, 500, 7_250_000),  # 2.50, 1.25, 10       800*2500 + 200*1250 + 500*10000
        ("gpt-4o-mini", 1_000, 0, 1_000, 750_000),  # 0.15, 0.075, 0.60  1000*150 + 1000*600
        ("gpt-4.1", 10, 10, 1, 13_000),  # 2, 0.50, 8                    10*500 + 8000
        ("gpt-5", 8, 0, 64, 650_000),  # 1.25, 0.125, 10                 8*1250 + 64*10000
        ("gpt-4-turbo", 100, 50, 10, 1_300_000),  # 10, -, 30: cached costs as input  100*10000 + 10*30000
        ("gpt-4", 1, 0, 1, 90_000),  # 30, -, 60
        ("o3", 1_000, 0, 100, 2_800_000),  # 2, 0.50, 8 since June 2025
        ("claude-sonnet-4-5", 200_000, 0, 1_000, 615_000_000),  # 3, 0.30, 15: 200000*3000 + 1000*15000
        ("claude-sonnet-4-5", 200_001, 0, 1_000, 1_222_506_000),  # 6, 0.60, 22.50 above 200,000 for every token
        ("claude-opus-4-1", 1_000, 900, 100, 10_350_000),  # 15, 1.50, 75  100*15000 + 900*1500 + 100*75000
        ("claude-3-haiku-20240307", 1, 0, 1, 1_500),  # 0.25, 0.03, 1.25
        ("gemini-2.5-pro", 100, 0, 10, 225_000),  # 1.25, 0.125, 10
        ("gemini-2.5-flash", 1_000, 1_000, 0, 30_000),  # 0.30, 0.03, 2.50
        ("mistral-large-latest", 500, 0, 500, 4_000_000),  # 2, -, 6
        ("command-r-plus", 2, 0, 2, 25_000),  # 2.50, -, 10
        ("deepseek-chat", 1_000, 100, 1_000, 1_350_000),  # by the hour; the dearer: 0.27, 0.07, 1.10
        ("openai/gpt-4o", 1, 0, 0, 2_500),
        ("text-embedding-3-small", 1_000, 0, 0, 20_000),  # 0.02
    ],
)
def test_the_price_is_what_the_hand_computes(
    model: str, prompt: int, cached: int, completion: int, expected_nano: int
) -> None:
    book = PriceBook(BillingSettings(), LIST.find)
    assert price(book, model, AT_S, prompt, completion, cached) == expected_nano


def test_a_price_is_that_of_its_day() -> None:
    before, after = LIST.find("o3", date(2025, 6, 9)), LIST.find("o3", date(2025, 6, 10))
    assert before is not None
    assert after is not None
    assert (before.input_nano, after.input_nano) == (10 * 10**9, 2 * 10**9)


@pytest.mark.parametrize("model", ["sim-small", "my-model", "", "nobody/gpt-4o-not", "openai/", "gpt-nothing-such"])
def test_what_nobody_sells_has_no_price(model: str) -> None:
    assert LIST.find(model, DAY) is None


@pytest.mark.slow
def test_every_model_of_the_list_costs_something_sane_and_more_tokens_cost_more() -> None:
    known = 0
    providers = json.loads(FILE.read_bytes())["providers"]
    names = [f"{provider['id']}/{model['id']}" for provider in providers for model in provider["models"]]
    for name in names:
        rate = LIST.find(name, DAY)
        if rate is None:
            continue
        known += 1
        _check(name, rate)
    assert known > 1_000


def _check(name: str, rate: Rate) -> None:
    starts = [tier.above for tier in rate.tiers]
    assert starts == sorted(starts), name
    asked = sorted({0, 1, 1_000, *starts, *(start + 1 for start in starts), 5_000_000})
    costs = [cost_nano(rate, prompt, 10) for prompt in asked]
    assert all(a <= b for a, b in itertools.pairwise(costs)), name
    assert costs[0] >= 0
    assert costs[-1] < MAX_AMOUNT, name


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
        ("azure/gpt-4o", "openai/gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("google/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
    ],
)
def test_other_ways_to_name_a_model(name: str, same: str) -> None:
    assert LIST.find(name, DAY) == LIST.find(same, DAY) is not None


def test_a_name_that_is_long_or_odd_is_looked_for_in_reasonable_time() -> None:
    names = ["a-" * 100_000, "gpt-" + "4" * 200_000, "claude" + "-20251211" * 20_000, "/" * 200_000]
    began_s = time.process_time()
    for name in names:
        LIST.find(name, DAY)
    assert time.process_time() - began_s < 5.0


def test_the_file_says_where_it_is_from_and_of_when() -> None:
    said = json.loads(FILE.read_bytes())
    assert said["source"].startswith("genai-prices ")
    assert date(2026, 11, 1) <= date.fromisoformat(said["date"])
