"""Accounts as an operator manages them: real commands on SQLite and PostgreSQL, beside a running server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.client import HELLO, ask
from tests.support.commands import Failed, ask_here, ask_zuebee, here, zuebee
from tests.support.databases import postgres_database
from tests.support.processes import running, simulated
from tests.support.stores import made, made_for
from zuebee.cli import app


class Desk(NamedTuple):
    """A folder with a configuration whose store is empty, and commands in it."""

    folder: Path
    say: Callable[..., str]

    def ask(self, *command: str) -> Any:
        return json.loads(self.say(*command, "--json"))


@pytest.fixture(params=["sqlite", "postgres"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:

    def write(store: dict[str, str]) -> None:
        config = {"backends": [{"url": "http://127.0.0.1:9"}], "store": store, "billing": {"currency": "EUR"}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    if request.param == "sqlite":
        write({"path": "data/store.db"})
        made_for(tmp_path / "config.yaml")
        yield Desk(tmp_path, partial(here, tmp_path))
        return
    with postgres_database() as url:
        write({"url": url})
        made_for(tmp_path / "config.yaml")
        yield Desk(tmp_path, partial(here, tmp_path))


@pytest.mark.requirement("A381")
def test_an_operator_sets_up_an_organization(desk: Desk) -> None:
    desk.say("plans", "create", "pro", "--priority", "high", "--model", "gpt-*", "--budget", "1000:tokens/daily")
    desk.say("accounts", "create", "organization", "acme", "--name", "Acme Ltd", "--plan", "pro")
    desk.say("accounts", "create", "team", "research", "--organization", "acme")
    desk.say("accounts", "create", "user", "ann", "--organization", "acme", "--team", "research", "--role", "admin")
    made = desk.ask("keys", "create", "--user", "ann", "--name", "laptop", "--budget", "25.50/monthly")
    key_id, secret = made["id"], made["key"]
    assert secret.startswith("sk-zuebee-")
    assert (made["organization_id"], made["team_id"], made["billing"]) == ("acme", "research", "quota")

    shown = desk.ask("keys", "show", key_id)
    assert shown["effective"]["models"] == ["gpt-*"]
    assert shown["effective"]["priority"] == "high"
    assert shown["effective"]["budgets"] == [f"key:{key_id}/EUR/monthly", "organization:acme/tokens/daily"]
    assert shown["budgets"][0]["amount"] == 25_500_000_000

    new = desk.ask("keys", "rotate", key_id, "--overlap", "1h")
    assert new["key"] != secret
    assert new["lineage"] == key_id
    assert desk.ask("keys", "revoke", key_id)["state"] == "revoked"
    listed = desk.ask("keys", "list", "--organization", "acme")
    assert [(each["id"], each["state"]) for each in listed["items"]] == [(key_id, "revoked"), (new["id"], "active")]
    for text in (desk.say("keys", "list"), desk.say("keys", "show", key_id), json.dumps(listed)):
        assert secret.removeprefix("sk-zuebee-") not in text, "a key is shown once"
        assert key_id in text

    newest = desk.ask("keys", "rotate", new["id"], "--overlap", "0")
    assert desk.ask("keys", "show", new["id"])["state"] == "revoked"

    desk.ask("accounts", "disable", "organization", "acme")
    assert desk.ask("keys", "show", newest["id"])["effective"]["active"] is False


@pytest.mark.requirement("A109")
def test_money_comes_in_once_and_an_invoice_goes_out(desk: Desk) -> None:
    desk.say("accounts", "create", "organization", "acme")
    desk.say("accounts", "set-budget", "organization", "acme", "--prepaid")
    for fresh in (True, False):
        paid = desk.ask("accounts", "top-up", "organization", "acme", "25.50", "--payment", "pay_1")
        assert paid["fresh"] is fresh
        assert paid["budgets"][0]["running"]["available"] == 25_500_000_000
    assert "25.50 EUR" in desk.say("accounts", "payments", "acme")
    made = desk.ask("accounts", "invoice", "acme", "--month", "2025-10", "--html", "invoice.html")
    assert (made["number"], made["total_nano"], made["currency"]) == ("00000001", 0, "EUR")
    assert "Invoice 00000001" in (desk.folder / "invoice.html").read_text()
    assert "00000001" in desk.say("accounts", "invoices")


MISTAKES = [
    (("keys", "create", "--user", "eve"), 1, "--user: there is no user `eve`"),
    (("keys", "create", "--model", "a*b"), 2, "--model: `*` may stand only at the end"),
    (("keys", "create", "--limit", "requests_per_minute"), 2, "--limit: expected NAME=NUMBER"),
    (("keys", "create", "--limit", "requests_per_age=1"), 2, "--limit.requests_per_age: this cannot be set"),
    (("keys", "create", "--budget", "25,50/monthly"), 2, "--budget: expected a decimal amount"),
    (("keys", "create", "--budget", "5/hourly"), 2, "--budget[0].period: expected daily, weekly"),
    (("keys", "create", "--expires", "soon"), 2, "--expires: expected a time"),
    (("keys", "create", "--allow-ip", "10.0.0.0/40"), 2, "--allow-ip: expected an address"),
    (("keys", "create", "--limit", "tokens_per_day=99999999999999999999"), 2, "--limit.tokens_per_day: expected"),
    (("keys", "list", "--state", "gone"), 2, "--state: expected active"),
    (("keys", "rotate", "key_1"), 1, "there is no key `key_1`"),
    (("keys", "rotate", "key_1", "--overlap", "a while"), 2, "--overlap: Expected a duration"),
    (("accounts", "create", "organization", "a b"), 2, "id: expected 1 to 128 letters"),
    (("accounts", "create", "organization", "acme"), 1, "id: organization `acme` is there already"),
    (
        ("accounts", "create", "user", "u", "--organization", "acme", "--role", "god"),
        2,
        "--role: expected admin, member or viewer",
    ),
    (("accounts", "top-up", "organization", "acme", "5"), 1, "is not prepaid"),
    (("accounts", "top-up", "organization", "acme", "-5"), 2, "No such option"),
    (("accounts", "set-budget", "organization", "acme"), 2, "amount: give an amount, or --prepaid"),
    (("accounts", "invoice", "acme", "--month", "10/2026"), 2, "--month: expected a month"),
]


def test_mistakes_name_the_argument(tmp_path: Path) -> None:
    store = ("--store", made(tmp_path / "store.db"), "--config", str(tmp_path / "none.yaml"))
    here(tmp_path, "accounts", "add", "organization", "acme", *store)
    runner = CliRunner()
    for command, status, message in MISTAKES:
        failed = runner.invoke(app, [*command, *store])
        assert (failed.exit_code, message in failed.stderr) == (status, True), f"{command}: {failed.stderr}"
        assert not failed.stdout


def test_a_store_that_cannot_be_used_is_said_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_STORE", "postgresql://postgres:very-secret@127.0.0.1:1/none")
    with pytest.raises(Failed) as caught:
        zuebee(tmp_path, "keys", "list", "--store", "os.environ/THE_STORE")
    assert caught.value.status == 1
    assert (
        "cannot use the store PostgreSQL at 127.0.0.1:1/none (--store os.environ/THE_STORE): it does not answer"
        in caught.value.stderr
    )
    assert "very-secret" not in caught.value.stderr + caught.value.stdout
    with pytest.raises(Failed) as caught:
        here(tmp_path, "keys", "list", "--store", str(tmp_path))
    assert (caught.value.status, "Traceback" in caught.value.stderr) == (1, False)
    with pytest.raises(Failed, match="There is no config"):
        here(tmp_path, "keys", "list")


def test_commands_work_beside_a_running_server(tmp_path: Path) -> None:
    with simulated(tmp_path / "sim", "--tokens-per-s", "0") as sim:
        config = {"backends": [{"url": sim.url}], "store": {"path": str(tmp_path / "store.db")}, "usage": None}
        with running(tmp_path / "gateway", config) as gateway, ThreadPoolExecutor(2) as pool:
            path = ("--config", str(gateway.config_path))
            here(tmp_path, "accounts", "create", "organization", "acme", *path)
            here(tmp_path, "accounts", "set-budget", "organization", "acme", "--prepaid", *path)
            top_up = ("accounts", "top-up", "organization", "acme", "1", *path)
            ups = [pool.submit(ask_zuebee, tmp_path, *top_up, "--payment", f"p{n}") for n in range(6)]
            answers = [ask(gateway.url, {**HELLO, "max_tokens": 1}).status for _ in range(200)]
            assert all(up.result()["fresh"] for up in ups)
            assert answers == [200] * 200
            [budget] = ask_here(tmp_path, "accounts", "show", "organization", "acme", *path)["budgets"]
            assert budget["running"]["available"] == 6 * 10**9
