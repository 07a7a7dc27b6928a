"""One currency for each store, on both databases: whoever comes with another one is told so, and nothing is mixed."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest
import yaml

from tests.support.client import ask
from tests.support.commands import Failed, ask_here, here
from tests.support.databases import postgres_database
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.stores import made, made_for
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.postgres.connection import StoreLost
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.lib.sql.postgres import GRACE_S
from zuebee.schema.currency import claim, find

PRICES = [{"model": "sim-small", "input_per_million": "1", "output_per_million": "2"}]
HELLO = {"model": "sim-small", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of a store."""
    if request.param == "sqlite":
        yield {"path": str(tmp_path / "usage.db")}
        return
    with postgres_database() as url:
        yield {"url": url, "spool_path": str(tmp_path / "spool.jsonl"), "timeout": "5s"}


def settings(sim: Sim, place: dict[str, Any], currency: str, **more: Any) -> dict[str, Any]:
    billing = {"prices": PRICES, "built_in_prices": False, "currency": currency}
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "store": place,
        "billing": billing,
        **more,
    }


def asked(place: dict[str, Any], sql: str) -> list[Any]:
    with reading(place.get("url") or place["path"]) as connection:
        return list(connection.exec_driver_sql(sql))


def refusal(stores: str, settings: str) -> str:
    return f"the store counts money in {stores}, and `billing.currency` is {settings}"


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **config}))


def test_with_money_in_the_store_another_currency_is_refused_everywhere(
    tmp_path: Path, sim: Sim, place: dict[str, Any]
) -> None:
    with running(tmp_path, settings(sim, place, "USD")) as gateway:
        assert ask(gateway.url, HELLO).status == 200
        until(lambda: asked(place, "SELECT currency FROM usage_records") == [("USD",)], "the record is in USD")
        assert gateway.metrics()['zuebee_billing_currency_info{currency="USD"}'] == 1
        gateway.write_config(settings(sim, place, "JPY"))
        gateway.send_signal(signal.SIGHUP)
        until(lambda: refusal("USD", "JPY") in gateway.output, "the reload is refused")
    with pytest.raises(AssertionError, match="it ended with 1") as refused:
        Gateway(tmp_path, settings(sim, place, "JPY"))
    assert refusal("USD", "JPY") in str(refused.value)
    for command in (
        ("accounts", "create", "organization", "acme"),
        ("keys", "list"),
        ("plans", "create", "p", "--budget", "5/monthly"),
    ):
        with pytest.raises(Failed) as failed:
            here(tmp_path, *command)
        assert (failed.value.status, refusal("USD", "JPY") in failed.value.stderr) == (1, True)
    assert ask_here(tmp_path, "usage")["currency"] == "USD"  # what is read says what it is in
    assert here(tmp_path, "usage", "export").splitlines()[1].endswith(",USD")
    if "path" in place:  # without a configuration it is the store's
        (tmp_path / "config.yaml").unlink()
        assert ask_here(tmp_path, "keys", "list", "--store", place["path"])["currency"] == "USD"
    with running(tmp_path, settings(sim, place, "USD")) as gateway:
        assert ask(gateway.url, HELLO).status == 200


def test_a_store_without_money_takes_over_another_currency(tmp_path: Path, sim: Sim, place: dict[str, Any]) -> None:
    for currency in ("USD", "JPY"):
        with running(tmp_path, settings(sim, place, currency)) as gateway:
            assert gateway.metrics()[f'zuebee_billing_currency_info{{currency="{currency}"}}'] == 1
            write(tmp_path, settings(sim, place, "EUR"))
            with pytest.raises(Failed) as failed:
                here(tmp_path, "keys", "list")
            assert "a server is running on it" in failed.value.stderr
    write(tmp_path, settings(sim, place, "EUR"))
    here(tmp_path, "plans", "create", "p", "--budget", "5/monthly")
    with pytest.raises(AssertionError, match="it ended with 1"):
        Gateway(tmp_path, settings(sim, place, "JPY"))


def test_of_two_that_start_at_once_with_different_currencies_one_is_refused(tmp_path: Path, sim: Sim) -> None:
    with postgres_database() as url:
        barrier = Barrier(2)

        def start(currency: str) -> Gateway | str:
            place = {"url": url, "spool_path": str(tmp_path / f"{currency}.jsonl"), "timeout": "5s"}
            barrier.wait(10)
            try:
                return Gateway(tmp_path / currency, settings(sim, place, currency))
            except AssertionError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(start, ("USD", "JPY")))
        for each in found:
            if isinstance(each, Gateway):
                each.stop()
        assert sorted(isinstance(each, str) for each in found) == [False, True]
        assert any("counts money in" in each for each in found if isinstance(each, str)), found


def test_who_looked_before_another_one_took_over_is_told_as_well(tmp_path: Path, sim: Sim) -> None:
    """The same race, as it ends when the other server is there between the look and the first statement."""
    with postgres_database() as url:
        place = {"url": url, "spool_path": str(tmp_path / "spool.jsonl"), "timeout": "5s"}
        with running(tmp_path, settings(sim, place, "JPY")):
            late = PostgresStore(url, reporters=(), currency="USD", retention_days=0, timeout_s=5.0, hold_s=30.0)
            with pytest.raises(StoreLost, match=r"counts money in JPY, and `billing\.currency` is USD") as raised:
                late.start("late")
            assert "Put `billing.currency: JPY` back" in str(raised.value)


def test_a_long_look_for_money_is_not_cut() -> None:
    """Here it has to wait for a lock, longer than any other statement of this connection may take."""
    with postgres_database() as url:
        made(url)
        database = Database(database_url("postgres", url), timeout_s=0.2)
        try:
            database.call(lambda connection: claim(connection, "JPY"))
            with psycopg.connect(url) as other:
                other.execute("LOCK TABLE usage_records IN ACCESS EXCLUSIVE MODE")
                with ThreadPoolExecutor(1) as pool:
                    claiming = pool.submit(database.call, lambda connection: claim(connection, "USD"))
                    time.sleep(0.2 + 1.5 * GRACE_S)
                    assert not claiming.done()
                    other.rollback()
                    claiming.result(10)
            assert database.call(find) == "USD"
            with pytest.raises(DatabaseError):
                database.call(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(2)"))
        finally:
            database.close()


class Customer:
    """Somebody with a limit of money, for whom it is then said that he pays in advance."""

    def __init__(self, folder: Path, scope: str) -> None:
        self._folder, self._scope = folder, scope
        self._do("create", "organization", scope)
        made = ask_here(folder, "keys", "create", "--organization", scope)
        self.key = made["key"]
        self._holder = ("key", made["id"]) if scope == "key" else ("organization", scope)

    def _do(self, *command: str) -> None:
        here(self._folder, "accounts", *command)

    def limit(self) -> None:
        if self._scope == "plan":
            here(self._folder, "plans", "create", "p", "--budget", "20000000/never")
            self._do("update", "organization", self._scope, "--plan", "p")
        else:
            self._do("set-budget", *self._holder, "20000000", "--period", "never")

    def make_prepaid(self) -> None:
        if self._scope == "plan":
            here(self._folder, "plans", "update", "p", "--budget", "prepaid")
        else:
            self._do("remove-budget", *self._holder, "--period", "never")
            self._do("set-budget", *self._holder, "--prepaid")

    def top_up(self) -> None:
        self._do("top-up", *self._holder, "10000000")


SCOPES = ("key", "organization", "plan")


@pytest.mark.parametrize("runs", [True, False])
def test_what_a_limit_granted_is_not_money_when_the_account_becomes_prepaid(
    tmp_path: Path, sim: Sim, place: dict[str, Any], runs: bool
) -> None:
    config = settings(sim, place, "VND", auth={"enabled": True})
    write(tmp_path, config)
    made_for(tmp_path / "config.yaml")
    customers = [Customer(tmp_path, scope) for scope in SCOPES]

    def all_are(status: int) -> bool:
        return all(ask(gateway.url, HELLO, key=each.key).status == status for each in customers)

    for each in customers:
        each.limit()
    with running(tmp_path, config) as gateway:
        assert all_are(200)
        if runs:
            for each in customers:
                each.make_prepaid()
            until(lambda: all_are(402), "nothing was paid in", 15)
    if not runs:
        for each in customers:
            each.make_prepaid()
            each.top_up()
    with running(tmp_path, config) as gateway:
        if runs:
            assert all_are(402)
            for each in customers:
                each.top_up()
            until(lambda: all_are(200), "what was paid in can be spent", 15)
        else:
            assert all_are(200)

        def settled() -> list[Any]:
            rows = asked(place, "SELECT granted - limited, available, held FROM (SELECT granted, limited, held,"
                         " granted - used - held AS available FROM ledger_balances) AS b")  # fmt: skip
            return [] if any(held for _, _, held in rows) else rows

        balances = until(settled, "nothing is held")
    assert len(balances) == len(SCOPES)
    for paid, available, _ in balances:
        assert paid == 10_000_000 * 10**9
        assert paid - 10**9 < available < paid
    with reading(place.get("url") or place["path"]) as connection:
        assert list(verify(connection)) == []
