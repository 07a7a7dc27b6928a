"""Callers without a key of the store: what the store says of those that a token or a signing client names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tokens
from tests.support.client import HELLO, Answer, Client, ask
from tests.support.commands import ask_here
from tests.support.databases import postgres_database
from tests.support.key_stores import caller
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.promises import within
from zuebee.app.auth import AuthState, build_pipeline
from zuebee.auth.service import UNAVAILABLE
from zuebee.config.load import loads
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.lib.sql.database import DatabaseError

WARNING = "keys exist in the store but nothing asks for them"


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "jwks.json").write_bytes(tokens.jwks())
    return {"issuer": tokens.ISSUER, "audience": tokens.AUDIENCE, "jwks_file": str(tmp_path / "jwks.json")}


class Place:
    """A gateway that knows the tokens of an issuer, and commands on its store."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.gateway = gateway
        self._folder = folder

    def do(self, *command: str) -> Any:
        return ask_here(self._folder, *command, "--config", str(self.gateway.config_path))

    def ask(self, **claims: Any) -> Answer:
        return ask(self.gateway.url, {**HELLO, "max_tokens": 4}, key=tokens.token(**claims).decode())

    def until(self, status: int, code: str = "", **claims: Any) -> None:
        def met() -> bool:
            answer = self.ask(**claims)
            return answer.status == status and (not code or answer.code == code)

        until(met, f"{status} {code}", 5.0)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "4", "--tokens", "200") as process:
        yield process


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, source: dict[str, Any], tmp_path: Path, sim: Sim) -> Iterator[Place]:
    pipeline = [{"type": "jwt", "jwt": source}]
    config = {"api_keys": None, "auth": {"pipeline": pipeline}, "backends": [{"url": sim.url}]}
    if request.param == "sqlite":
        with running(tmp_path / "gateway", config) as gateway:
            yield Place(gateway, tmp_path)
        return
    with postgres_database() as url, running(tmp_path / "gateway", {**config, "store": {"url": url}}) as gateway:
        yield Place(gateway, tmp_path)


@pytest.mark.requirement("A051")
def test_a_token_is_worth_what_the_store_says_of_those_it_names(place: Place) -> None:
    ann = {"sub": "ann", "team": None, "organization": None, "plan": "gold"}
    assert place.ask(**ann).status == 200, "nobody knows them yet"
    place.do("accounts", "create", "organization", "acme")
    place.do("accounts", "create", "user", "ann", "--organization", "acme")
    place.do("plans", "create", "gold", "--model", "other-*")
    place.until(403, "model_not_allowed", **ann)
    place.do("plans", "update", "gold", "--model", "")
    place.until(200, **ann)
    place.do("plans", "disable", "gold")
    place.until(403, "subscription_lapsed", **ann)
    place.do("plans", "enable", "gold")
    place.do("accounts", "set-budget", "organization", "acme", "1", "--unit", "tokens", "--period", "daily")
    place.until(429, "quota_exceeded", **ann)
    assert place.ask(sub="stranger", organization="elsewhere", plan=None, team=None).status == 200
    assert place.ask(sub="stranger", organization="acme", plan=None, team=None).code == "quota_exceeded"


def test_a_stream_of_a_token_ends_when_its_organization_is_disabled(place: Place) -> None:
    place.do("accounts", "create", "organization", "acme")
    with Client(place.gateway.url, tokens.token(organization="acme").decode()) as client:
        stream = client.open({**HELLO, "stream": True})
        assert stream.status == 200
        place.do("accounts", "disable", "organization", "acme")
        with within(5.0, "ending the stream"):
            answer = stream.rest()
    assert "[DONE]" not in answer.events
    assert "key_disabled" in answer.events[-1]


async def test_a_store_that_does_not_answer_admits_nobody(source: dict[str, Any]) -> None:
    async def finish(principal: Principal) -> Principal | Refusal:
        raise DatabaseError("no answer in time")

    text = f"backends: [{{url: 'http://a:1'}}]\nauth: {{pipeline: [{{type: jwt, jwt: {source}}}]}}\n"
    settings = loads(text, "f", {}, lambda path: True).settings
    token = tokens.token().decode()
    pipeline = build_pipeline(settings, AuthState(), finish=finish)
    assert await pipeline.identify(caller(token)) == UNAVAILABLE
    await pipeline.aclose()
    control = build_pipeline(settings, AuthState())
    assert isinstance(await control.identify(caller(token)), Principal)
    await control.aclose()


def test_keys_that_nobody_asks_for_are_told_at_the_start(tmp_path: Path) -> None:
    config: dict[str, Any] = {"api_keys": None, "backends": [{"url": "http://127.0.0.1:9"}]}

    def says(name: str, **more: Any) -> bool:
        store = {"path": str(tmp_path / "store.db")}
        with running(tmp_path / name, {**config, "store": store, **more}) as gateway:
            return WARNING in gateway.output

    assert not says("empty")
    made = ask_here(tmp_path, "keys", "create", "--config", str(tmp_path / "empty" / "config.yaml"))
    assert says("open")
    assert not says("asked", auth={"enabled": True})
    assert not says("meant", auth={"enabled": False})
    ask_here(tmp_path, "keys", "revoke", made["id"], "--config", str(tmp_path / "empty" / "config.yaml"))
    assert not says("revoked")
