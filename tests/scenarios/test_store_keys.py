"""A new user's story: an organization, a budget and a key by commands, and what a running gateway makes of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Answer, Client, ask
from tests.support.commands import ask_here, here
from tests.support.databases import postgres_database
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.promises import within

QUICK = {**HELLO, "max_tokens": 4}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


class Place:
    """A running gateway whose keys live in its store, and commands on that store."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.gateway = gateway
        self._folder = folder
        self._config = ("--config", str(gateway.config_path))

    def do(self, *command: str) -> Any:
        return ask_here(self._folder, *command, *self._config)

    def say(self, *command: str) -> str:
        return here(self._folder, *command, *self._config)

    def ask(self, key: str, **fields: Any) -> Answer:
        return ask(self.gateway.url, {**QUICK, **fields}, key=key)

    def until(self, key: str, status: int, code: str = "", **fields: Any) -> None:
        """Wait until a request meets this answer: at most the 5 seconds that are promised."""

        def met() -> bool:
            answer = self.ask(key, **fields)
            return answer.status == status and (not code or answer.code == code)

        until(met, f"{status} {code}", 5.0)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, sim: Sim, tmp_path: Path) -> Iterator[Place]:
    config: dict[str, Any] = {
        "backends": [{"url": sim.url}],
        "api_keys": None,
        "usage": None,
        "auth": {"enabled": True},
        "billing": {"currency": "EUR", "prices": [{"model": "sim-*", "input_per_million": "1000"}]},
    }
    if request.param == "sqlite":
        store = {"path": str(tmp_path / "store.db")}
        with running(tmp_path / "gateway", {**config, "store": store}) as gateway:
            yield Place(gateway, tmp_path)
        return
    with postgres_database() as url, running(tmp_path / "gateway", {**config, "store": {"url": url}}) as gateway:
        yield Place(gateway, tmp_path)


@pytest.mark.requirement("A051", "A053", "A381")
def test_a_key_of_the_store_works_as_its_owners_and_plans_allow(place: Place) -> None:
    place.do("plans", "create", "pro", "--model", "sim-*", "--endpoint", "/v1/chat/*")
    place.do("accounts", "create", "organization", "acme", "--plan", "pro")
    place.do("accounts", "create", "user", "ann", "--organization", "acme")
    made = place.do("keys", "create", "--user", "ann", "--name", "laptop", "--model", "sim-small")
    key = made["key"]
    assert place.ask(key).status == 200
    refused = place.ask(key, model="sim-large")
    assert (refused.status, refused.code) == (403, "model_not_allowed")
    elsewhere = ask(place.gateway.url, {"model": "sim-small", "input": "x"}, key=key, path="/v1/embeddings")
    assert (elsewhere.status, elsewhere.code) == (403, "endpoint_not_allowed")

    place.do("keys", "update", made["id"], "--model", "")
    place.until(key, 200, model="sim-large")
    place.do("accounts", "update", "organization", "acme", "--plan-ends", "2026-01-01")
    place.until(key, 403, "subscription_lapsed")
    place.do("accounts", "update", "organization", "acme", "--plan-ends", "never")
    place.until(key, 200)
    place.do("accounts", "disable", "user", "ann")
    place.until(key, 403, "key_disabled")
    place.do("accounts", "enable", "user", "ann")
    place.until(key, 200)

    new = place.do("keys", "rotate", made["id"], "--overlap", "1h")
    assert [place.ask(each).status for each in (key, new["key"])] == [200, 200]
    place.do("keys", "revoke", made["id"])
    place.until(key, 401, "key_revoked")
    assert place.ask(new["key"]).status == 200
    [old, _] = until(lambda: _listed(place, 2), "usage of both keys")
    assert old["state"] == "revoked"
    assert old["last_30_days"]["tokens"] > 0


def _listed(place: Place, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.do("keys", "list")["items"]
    return found if len(found) == count and all(each["last_30_days"]["requests"] for each in found) else []


def test_a_prepaid_organization_spends_what_it_paid_and_no_more(place: Place) -> None:
    place.do("accounts", "create", "organization", "acme")
    place.do("accounts", "set-budget", "organization", "acme", "--prepaid")
    key = place.do("keys", "create", "--organization", "acme")["key"]
    broke = place.ask(key)
    assert (broke.status, broke.code) == (402, "budget_exceeded")
    place.do("accounts", "top-up", "organization", "acme", "0.10", "--payment", "pay_1")
    place.until(key, 200)
    place.do("accounts", "top-up", "organization", "acme", "0.10", "--payment", "pay_1")
    served = 1
    while place.ask(key).status == 200:
        served += 1
        assert served < 100
    [balance] = place.do("accounts", "show", "organization", "acme")["budgets"]
    figures = balance["running"]
    assert figures["granted"] == 100_000_000, "the payment counted once"
    assert figures["held"] == 0
    assert 0 < figures["used"] <= figures["granted"]
    place.do("accounts", "top-up", "organization", "acme", "1", "--payment", "pay_2")
    place.until(key, 200)


def test_a_rotation_is_no_second_quota(place: Place) -> None:
    made = place.do("keys", "create", "--budget", "100:tokens/daily", "--limit", "requests_per_minute=50")
    new = place.do("keys", "rotate", made["id"], "--overlap", "1h")
    keys = [made["key"], new["key"]]
    served = 0
    while place.ask(keys[served % 2]).status == 200:
        served += 1
        assert served < 50
    assert served > 1
    assert [place.ask(key).status for key in keys] == [429, 429]
    [budget] = place.do("keys", "show", new["id"])["budgets"]
    assert budget["account"] == f"key:{made['id']}/tokens/daily"
    assert 0 < budget["running"]["used"] <= 100


def test_an_open_stream_ends_with_its_key(tmp_path: Path) -> None:
    config = {"api_keys": None, "usage": None, "auth": {"enabled": True}, "store": {"path": str(tmp_path / "store.db")}}
    slow = simulated(tmp_path / "sim", "--tokens-per-s", "4", "--tokens", "200")
    with slow as sim, running(tmp_path / "gateway", {**config, "backends": [{"url": sim.url}]}) as gateway:
        place = Place(gateway, tmp_path)
        for end in ("revoke", "disable"):
            made = place.do("keys", "create")
            with Client(gateway.url, made["key"]) as client:
                stream = client.open({**HELLO, "stream": True})
                assert stream.status == 200
                place.do("keys", end, made["id"])
                with within(5.0, "ending the stream"):
                    answer = stream.rest()
            assert "[DONE]" not in answer.events
            assert json.loads(answer.events[-1])["error"]["code"] in ("key_revoked", "key_disabled")
