"""What the store of accounts promises to many at once, on both databases; and its keys in the admission line."""

import asyncio
import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import insert

from tests.support.accounts import Store, opened
from tests.support.databases import postgres_database
from tests.support.fakes import make_job
from zuebee.accounts.principals import StoreSource
from zuebee.accounts.schemas import AccountsError
from zuebee.admission.firewall import OpenFirewall
from zuebee.admission.service import AdmissionService
from zuebee.app.auth import AuthState, build_pipeline
from zuebee.config.settings import BackendSettings, Settings
from zuebee.config.settings_auth import AuthSettings, SourceSettings
from zuebee.contracts.admission import Budget, Caller, Grant, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import UNKNOWN
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib.sql.database import DatabaseError, database_url
from zuebee.schema.tables import keys

WORKERS = 4


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        with opened(f"sqlite:///{tmp_path}/store.db") as found:
            yield found
        return
    with postgres_database() as url, opened(database_url("postgres", url)) as found:
        yield found


def at_once(*calls: Any) -> list[Any]:
    """What the calls give, all begun at the same moment; AccountsError and DatabaseError as values."""
    barrier = Barrier(len(calls))

    def run(call: Any) -> Any:
        barrier.wait(10)
        try:
            return call()
        except (AccountsError, DatabaseError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.requirement("A109")
def test_a_payment_that_arrives_many_times_at_once_counts_once(store: Store) -> None:
    store.acme()
    store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})
    for n in range(10):

        def pay(n: int = n) -> Any:
            return store.payments.top_up("organization", "acme", payment_id=f"pay_{n}", amount=7)

        answers = at_once(*[pay] * WORKERS)
        assert sorted(answer.fresh for answer in answers) == [False] * (WORKERS - 1) + [True]
    assert store.rows("SELECT granted FROM ledger_balances") == [(70,)]
    assert store.rows("SELECT count(*) FROM ledger_entries") == [(10,)]
    assert store.rows("SELECT count(*) FROM ledger_batches") == [(10,)]


def test_a_server_on_the_same_file_sees_what_was_paid_in(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    with opened(f"sqlite:///{path}") as store:
        store.acme()
        store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})
        server = SqliteStore(path, reporters=[], currency="USD", retention_days=0)
        try:
            server.start("server", 1.0)
            assert server.foreign_entries() == []
            store.payments.top_up("organization", "acme", payment_id="pay_1", amount=5)
            [(_, *entry)] = server.foreign_entries()
            assert entry == ["organization:acme/USD/never", 0.0, "grant", 0, 5]
            assert server.foreign_entries() == []
            budget = Budget("organization:acme/USD/never", "USD", "never", None)
            [(_, [balance]), _] = server.open_path([budget], [0.0])
            assert (balance.granted, balance.available, balance.limited) == (5, 5, 0)
        finally:
            server.close()


def test_different_payments_at_once_all_count(store: Store) -> None:
    store.acme()
    for name in ("acme", "other"):
        store.accounts.set_budget("organization", name, {"unit": "USD", "period": "never", "amount": None})

    def pay(n: int) -> Any:
        return store.payments.top_up("organization", ("acme", "other")[n % 2], payment_id=f"p{n}", amount=1)

    for start in range(0, 40, WORKERS):
        answers = at_once(*[lambda n=n: pay(n) for n in range(start, start + WORKERS)])
        assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert sorted(store.rows("SELECT granted FROM ledger_balances")) == [(20,), (20,)]


@pytest.mark.requirement("A108")
def test_invoices_made_at_once_have_numbers_without_a_gap(store: Store) -> None:
    store.acme()
    months = [f"2025-{month:02d}" for month in range(1, 13)]
    made: list[Any] = []
    for month in months:
        orders = [("acme", month), ("acme", month), ("other", month), ("nobody", month)]
        made += at_once(*[lambda order=order: store.invoices.make(*order) for order in orders])
    assert sum(isinstance(each, AccountsError) for each in made) == 12
    numbers = sorted(row[0] for row in store.rows("SELECT number FROM invoices"))
    assert numbers == [f"{n:08d}" for n in range(1, 25)]


def test_ten_thousand_keys_are_listed_in_pages(store: Store) -> None:
    store.acme()

    def row(n: int) -> dict[str, Any]:
        key_id = "key_" + secrets.token_hex(8)
        digest = hashlib.sha256(key_id.encode()).hexdigest()
        return {"id": key_id, "lineage": key_id, "digest": digest, "user_id": "ann", "created_at_s": float(n // 7)}

    store.database.call(lambda c: c.execute(insert(keys), [row(n) for n in range(10_000)]))
    seen: list[str] = []
    after = ""
    while len(seen) < 10_000:
        found, after = store.accounts.list_keys({"user_id": "ann"}, limit=1000, after=after)
        seen += [each["id"] for each in found]
        assert found
    assert (len(set(seen)), after) == (10_000, "")


class NoLimits:
    """Limits that everything fits into."""

    def blocked(self, address: str) -> None:
        return None

    def failed(self, address: str) -> None:
        return None

    async def acquire(self, *_: object) -> object:
        return object()

    def release(self, *_: object) -> None:
        return None


def line(store: Store) -> AdmissionService:
    """The admission line with the store as the only source of keys."""
    source = StoreSource(store.database, currency="USD")
    pipeline = AuthSettings(pipeline=[SourceSettings(type="store")])
    settings = Settings(backends=[BackendSettings(url="http://127.0.0.1:9")], auth=pipeline)
    limiter: Any = NoLimits()
    billing: Any = None  # nothing here is metered
    return AdmissionService(
        authenticator=build_pipeline(settings, AuthState(), store_source=source),
        firewall=OpenFirewall(),
        limiter=limiter,
        billing=billing,
        recorders=[],
        sizes=lambda _key, job: (len(job.body), len(job.body)),
        facts=lambda _model: UNKNOWN,
        default_output_tokens=1,
        max_output_tokens=1,
    )


def admitted(store: Store, secret: str, *, model: str = "gpt-4o", route: str = "/v1/chat/completions") -> str:
    """The plan and priority of what is let in, or the status and code of the refusal."""

    async def ask() -> str:
        admission = line(store)
        caller = Caller("POST", route, {b"authorization": b"Bearer " + secret.encode()}, "127.0.0.1")
        who = await admission.identify(caller)
        answer: Principal | Refusal | Grant = who
        if isinstance(who, Principal):
            answer = await admission.admit(caller, who, make_job(model=model))
        if isinstance(answer, Refusal):
            return f"{answer.status} {answer.code}"
        assert isinstance(answer, Grant)
        return f"{answer.principal.plan} {answer.principal.priority}"

    return asyncio.run(ask())


@pytest.mark.requirement("A051", "A053")
def test_a_plan_decides_what_a_key_of_the_store_may_do(store: Store) -> None:
    store.acme()
    store.accounts.create("plan", {"id": "pro", "priority": "high", "models": ["gpt-*"], "endpoints": ["/v1/chat/*"]})
    secret = store.accounts.create_key({"user_id": "ann"}).secret
    assert admitted(store, secret, model="claude-3") == " normal"
    store.accounts.change("organization", "acme", {"plan": "pro"})
    assert admitted(store, secret) == "pro high"
    assert admitted(store, secret, model="claude-3") == "403 model_not_allowed"
    assert admitted(store, secret, route="/v1/embeddings") == "403 endpoint_not_allowed"
    store.accounts.change("plan", "pro", {"models": ["*"]})
    assert admitted(store, secret, model="claude-3") == "pro high"
    store.accounts.change("organization", "acme", {"plan_ends_at_s": 1.0})
    assert admitted(store, secret) == "403 subscription_lapsed"


def test_a_revoked_key_is_refused_by_a_code_of_its_own(store: Store) -> None:
    made = store.accounts.create_key({})
    new = store.accounts.rotate_key(made.view["id"], overlap_s=3600)
    assert [admitted(store, each.secret) for each in (made, new)] == [" normal", " normal"]
    store.accounts.revoke_key(made.view["id"])
    assert [admitted(store, each.secret) for each in (made, new)] == ["401 key_revoked", " normal"]
    assert admitted(store, "sk-zuebee-unknown") == "401 invalid_api_key"
