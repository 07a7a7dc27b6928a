"""Budgets at the front door: what does not fit is refused before a backend hears of it, the rest is charged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer, ask
from tests.support.commands import ask_zuebee, zuebee
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from zuebee.ledger.audit import account, reading, verify

PRICES = [{"model": "sim-small", "input_per_million": "1", "output_per_million": "2"}]
QUOTA = 2_000


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


def settings(sim: Sim, **more: Any) -> dict[str, Any]:
    key = {"key": KEY, "name": "test", "total_quota": QUOTA}
    billing = {"prices": PRICES, "built_in_prices": False}
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [key],
        "billing": billing,
        **more,
    }


def body(tokens: int, *, model: str = "sim-small", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello!"}]
    return {
        "model": model,
        "max_tokens": tokens,
        "messages": messages,
        "sim": {"tokens": 10, "tokens_per_s": 0},
        **more,
    }


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


def balance(gateway: Gateway) -> dict[str, Any]:
    """The only account, once nothing is held in it."""

    def free() -> dict[str, Any] | None:
        with reading(str(gateway.usage_path)) as connection:
            names = connection.exec_driver_sql("SELECT account FROM ledger_balances").scalars().all()
        with reading(str(gateway.usage_path)) as connection:
            found = account(connection, names[0], 1)[0][0] if names else None
        return found if found is not None and found["held"] == 0 else None

    return until(free, "nothing is held") or {}


@pytest.mark.requirement("A052", "A078", "A095")
def test_what_does_not_fit_is_refused_before_the_backend_hears_of_it(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        before = sim.stats()["requests_started"]
        assert code(ask(gateway.url, body(QUOTA))) == (429, "quota_exceeded")
        assert sim.stats()["requests_started"] == before
        assert ask(gateway.url, body(100)).status == 200
        assert sim.stats()["requests_started"] == before + 1


@pytest.mark.requirement("A096")
@pytest.mark.parametrize("stream", [False, True])
def test_what_was_used_is_charged_and_the_rest_is_free_again(tmp_path: Path, sim: Sim, stream: bool) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        assert ask(gateway.url, body(1_000, stream=stream)).status == 200
        [row] = gateway.wait_for_rows(1)
        left = balance(gateway)
        assert left["used"] == row["prompt_tokens"] + row["completion_tokens"] < 100
        assert left["available"] == QUOTA - left["used"]


@pytest.mark.requirement("A097")
def test_a_failure_before_the_first_token_costs_nothing(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        for stream in (False, True):
            wish = {"fault": "400"}
            assert ask(gateway.url, body(1_000, stream=stream) | {"sim": wish}).status == 400
        left = balance(gateway)
        assert (left["used"], left["available"]) == (0, QUOTA)


@pytest.mark.requirement("A079")
def test_a_quota_is_used_up_by_what_was_really_used_and_stays_so(tmp_path: Path, sim: Sim) -> None:
    spent = 0
    with running(tmp_path, settings(sim)) as gateway:
        while (answer := ask(gateway.url, body(20))).status == 200:
            spent += answer.json["usage"]["total_tokens"]
            assert spent <= QUOTA
        assert code(answer) == (429, "quota_exceeded")
        assert balance(gateway)["used"] == spent
    with running(tmp_path, settings(sim)) as gateway:
        assert code(ask(gateway.url, body(20))) == (429, "quota_exceeded")
        assert QUOTA - spent < 100
        with reading(str(gateway.usage_path)) as connection:
            assert list(verify(connection)) == []


def test_money_is_charged_by_the_price_and_refused_when_it_is_gone(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        made = ask_zuebee(tmp_path, "keys", "create", "--budget", "0.01/monthly")
        answer = ask(gateway.url, body(1_000), key=made["key"])
        assert answer.status == 200
        usage = answer.json["usage"]
        cost_nano = usage["prompt_tokens"] * 1_000 + usage["completion_tokens"] * 2_000
        assert [row["cost_nano"] for row in gateway.wait_for_rows(1)] == [cost_nano]
        assert balance(gateway)["used"] == cost_nano
        assert code(ask(gateway.url, body(6_000), key=made["key"])) == (402, "budget_exceeded")
        assert code(ask(gateway.url, body(1, model="sim-large"), key=made["key"])) == (403, "model_has_no_price")
        assert ask(gateway.url, body(1, model="sim-large")).status == 200, "a key that pays in tokens needs no price"
    shown = json.loads(zuebee(tmp_path, "ledger", "verify", "--json"))
    assert shown["right"] is True
