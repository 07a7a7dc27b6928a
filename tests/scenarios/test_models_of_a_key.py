"""`/v1/models` lists what a key may use, and what is asked for beside it is answered as OpenAI answers."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.commands import ask_here
from tests.support.processes import KEY, Gateway, Sim, running, simulated

HELLO: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    models = ("--models", "sim-small,sim-large,other", "--tokens-per-s", "0")
    with simulated(tmp_path_factory.mktemp("sim"), *models) as process:
        yield process


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    prices = [{"model": "sim-small", "input_per_million": "1", "output_per_million": "2"}]
    config = {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "all"}, {"key": "sk-one-0123456789abcdef", "models": ["sim-*"]}],
        "billing": {"prices": prices, "built_in_prices": False},
    }
    folder = tmp_path_factory.mktemp("gateway")
    with running(folder, config) as process:
        ask_here(folder, "plans", "create", "small", "--model", "sim-small", "--model", "other")
        ask_here(folder, "accounts", "create", "organization", "acme", "--model", "sim-*")
        yield process


def client(gateway: Gateway, key: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1", max_retries=0)


def made(gateway: Gateway, *options: str) -> str:
    return str(ask_here(gateway.folder, "keys", "create", *options)["key"])


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ((), ["other", "sim-large", "sim-small"]),
        (("--model", "other"), ["other"]),
        (("--organization", "acme"), ["sim-large", "sim-small"]),
        (("--plan", "small"), ["other", "sim-small"]),
        (("--plan", "small", "--organization", "acme"), ["sim-small"]),
        (("--budget", "1/monthly"), ["sim-small"]),
        (("--budget", "1000:tokens/monthly"), ["other", "sim-large", "sim-small"]),
    ],
    ids=lambda value: " ".join(value) or "all",
)
def test_what_is_listed_is_what_is_let_in(gateway: Gateway, options: tuple[str, ...], listed: list[str]) -> None:
    with client(gateway, made(gateway, *options)) as asking:
        assert sorted(model.id for model in asking.models.list()) == listed
        for model in ("sim-small", "sim-large", "other"):
            if model in listed:
                assert asking.models.retrieve(model).id == model
                assert asking.chat.completions.create(model=model, messages=HELLO, max_tokens=3).choices
                continue
            with pytest.raises(openai.NotFoundError) as hidden:
                asking.models.retrieve(model)
            assert hidden.value.code == "model_not_found"
            with pytest.raises(openai.PermissionDeniedError) as refused:
                asking.chat.completions.create(model=model, messages=HELLO, max_tokens=3)
            assert f"`{model}`" in refused.value.message


def test_keys_of_the_file_see_their_models(gateway: Gateway) -> None:
    with client(gateway, KEY) as all_of_them, client(gateway, "sk-one-0123456789abcdef") as some:
        assert sorted(model.id for model in all_of_them.models.list()) == ["other", "sim-large", "sim-small"]
        assert sorted(model.id for model in some.models.list()) == ["sim-large", "sim-small"]


@pytest.mark.parametrize("budget", [(), ("--budget", "1/monthly"), ("--budget", "1000:tokens/monthly")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_nobody_serves_is_not_found(gateway: Gateway, budget: tuple[str, ...], stream: bool) -> None:
    """Whatever the key pays with: `model_has_no_price` is for models that are there."""
    with client(gateway, made(gateway, *budget)) as asking:
        with pytest.raises(openai.NotFoundError) as missing:
            asking.chat.completions.create(model="gpt-17", messages=HELLO, max_tokens=3, stream=stream)
        assert "gpt-17" in missing.value.message
    with client(gateway, made(gateway, "--budget", "1/monthly")) as paying:
        with pytest.raises(openai.PermissionDeniedError) as unpriced:
            paying.chat.completions.create(model="other", messages=HELLO, max_tokens=3, stream=stream)
        assert unpriced.value.code == "model_has_no_price"
        assert "`billing.prices`" in unpriced.value.message


def test_who_never_had_anything_is_not_told_that_it_is_used_up(gateway: Gateway) -> None:
    with client(gateway, made(gateway, "--budget", "prepaid")) as asking:
        with pytest.raises(openai.APIStatusError) as refused:
            asking.chat.completions.create(model="sim-small", messages=HELLO, max_tokens=3)
        assert refused.value.code == "budget_exceeded"
        assert "There is nothing in the budget of this key yet" in refused.value.message
