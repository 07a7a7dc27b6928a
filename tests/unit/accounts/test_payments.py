import asyncio
import hashlib
import json
from collections.abc import Mapping

import pytest

from tests.support.accounts import Store
from zuebee.accounts.payments import Checkout, EventVerifier, PaymentEvent, PaymentProvider, read_event, sign
from zuebee.accounts.schemas import AccountsError
from zuebee.contracts.admission import MAX_BALANCE
from zuebee.contracts.errors import Refusal
from zuebee.lib.sql.database import DatabaseError

SECRET = "aB3$kfi29fkQpz71mmN0xLw4"
ACCOUNT = "organization:acme/USD/never"


def prepaid(store: Store) -> None:
    store.acme()
    store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})


def test_a_payment_is_an_entry_a_batch_and_a_balance(store: Store) -> None:
    prepaid(store)
    paid = store.payments.top_up("organization", "acme", payment_id="pay_1", amount=25 * 10**9, note="thanks")
    assert (paid.fresh, paid.account, paid.organization_id) == (True, ACCOUNT, "acme")
    assert store.rows("SELECT account, period, starts_at_s, granted, held, used, limited FROM ledger_balances") == [
        (ACCOUNT, "never", 0.0, 25 * 10**9, 0, 0, 0)
    ]
    [entry] = store.rows("SELECT kind, hold, step, path, tokens, cost_nano, owner, at_s, batch FROM ledger_entries")
    assert entry == ("grant", "pay_1", 0, entry[3], 0, 25 * 10**9, entry[6], paid.at_s, 1)
    line = f'[[1,"grant","pay_1",0,{entry[3]},0,{25 * 10**9},0,0,{entry[6]},{paid.at_s!r}]]'
    assert store.rows("SELECT owner, sequence, entries, hash FROM ledger_batches") == [
        (entry[6], 1, 1, hashlib.sha256(line.encode()).hexdigest())
    ]
    [(ended,)] = store.rows("SELECT ended_at_s FROM ledger_owners")
    assert ended > 0, "nobody waits for this owner's heartbeat"
    balance = store.accounts.budgets("organization", "acme")[0]["running"]
    assert (balance["granted"], balance["available"]) == (25 * 10**9, 25 * 10**9)


@pytest.mark.requirement("A109")
def test_the_same_payment_twice_counts_once(store: Store) -> None:
    prepaid(store)
    first = store.payments.top_up("organization", "acme", payment_id="pay_1", amount=7)
    again = store.payments.top_up("organization", "acme", payment_id="pay_1", amount=7)
    assert (first.fresh, again.fresh) == (True, False)
    assert store.rows("SELECT granted FROM ledger_balances") == [(7,)]
    assert store.rows("SELECT count(*) FROM ledger_entries") == [(1,)]
    with pytest.raises(AccountsError) as caught:
        store.payments.top_up("organization", "acme", payment_id="pay_1", amount=8)
    assert (caught.value.field, caught.value.kind) == ("payment", "conflict")
    store.payments.top_up("organization", "acme", payment_id="pay_2", amount=1)
    assert store.rows("SELECT granted FROM ledger_balances") == [(8,)]
    assert [each["id"] for each in store.payments.listing("acme")] == ["pay_2", "pay_1"]


def test_the_ledger_itself_refuses_what_it_has_seen(store: Store) -> None:
    prepaid(store)
    store.payments.top_up("organization", "acme", payment_id="pay_1", amount=7)
    store.rows("DELETE FROM payments RETURNING id")  # as if the first guard were missing
    with pytest.raises(DatabaseError):
        store.payments.top_up("organization", "acme", payment_id="pay_1", amount=7)
    assert store.rows("SELECT granted FROM ledger_balances") == [(7,)]
    store.rows("DELETE FROM ledger_entries RETURNING id")  # and the control: without the second it would count again
    store.payments.top_up("organization", "acme", payment_id="pay_1", amount=7)
    assert store.rows("SELECT granted FROM ledger_balances") == [(14,)]


def test_only_prepaid_accounts_are_topped_up(store: Store) -> None:
    store.acme()
    with pytest.raises(AccountsError, match="is not prepaid"):
        store.payments.top_up("organization", "acme", payment_id="p", amount=1)
    store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": 5})
    with pytest.raises(AccountsError, match="has a limit"):
        store.payments.top_up("organization", "acme", payment_id="p", amount=1)
    assert store.rows("SELECT count(*) FROM payments") == [(0,)]
    assert store.rows("SELECT count(*) FROM ledger_entries") == [(0,)]


def test_prepaid_by_a_plan_or_by_its_mode_will_do(store: Store) -> None:
    store.acme()
    store.accounts.create("plan", {"id": "p", "budgets": [{"unit": "tokens", "period": "never", "amount": None}]})
    store.accounts.change("user", "ann", {"plan": "p"})
    assert store.payments.top_up("user", "ann", payment_id="1", amount=5, unit="tokens").account == (
        "user:ann/tokens/never"
    )
    key_id = store.accounts.create_key({}).view["id"]
    store.accounts.change_key(key_id, {"billing": "prepaid"})
    assert store.payments.top_up("key", key_id, payment_id="2", amount=5).account == f"key:{key_id}/USD/never"
    assert store.rows("SELECT tokens, cost_nano FROM ledger_entries ORDER BY id") == [(5, 0), (0, 5)]


@pytest.mark.parametrize("amount", [0, -1, MAX_BALANCE + 1])
def test_amounts_that_cannot_be_are_refused(store: Store, amount: int) -> None:
    prepaid(store)
    with pytest.raises(AccountsError, match="amount"):
        store.payments.top_up("organization", "acme", payment_id="p", amount=amount)


@pytest.mark.parametrize("payment_id", ["", "x" * 201, "a\nb", f"{ACCOUNT}@0"])
def test_ids_that_the_ledger_could_take_for_its_own_are_refused(store: Store, payment_id: str) -> None:
    prepaid(store)
    with pytest.raises(AccountsError, match="payment"):
        store.payments.top_up("organization", "acme", payment_id=payment_id, amount=1)


def test_an_account_holds_no_more_than_can_be_counted(store: Store) -> None:
    prepaid(store)
    store.payments.top_up("organization", "acme", payment_id="1", amount=MAX_BALANCE)
    with pytest.raises(AccountsError, match=r"more than 4611686018\.427387904 in its life"):
        store.payments.top_up("organization", "acme", payment_id="2", amount=1)
    assert store.rows("SELECT count(*) FROM payments") == [(1,)]


class FakeProvider:
    """A payment provider that pays at once: what it posts is signed as a real one's."""

    name = "fake"

    def __init__(self) -> None:
        self._verifier = EventVerifier([SECRET])
        self.posted: list[tuple[dict[bytes, bytes], bytes]] = []

    async def checkout(self, account: str, unit: str, amount: int) -> Checkout:
        payment_id = f"fake_{len(self.posted)}"
        event = {"id": payment_id, "account": account, "unit": unit, "amount": amount}
        body = json.dumps(event).encode()
        signature = sign(SECRET, "evt", 1_800_000_000, body).encode()
        self.posted.append(
            ({b"webhook-id": b"evt", b"webhook-timestamp": b"1800000000", b"webhook-signature": signature}, body)
        )
        return Checkout(payment_id, "https://pay.example/1")

    def receive(self, fields: Mapping[bytes, bytes], body: bytes, now_s: float) -> PaymentEvent | Refusal | None:
        return self._verifier.verify(fields, body, now_s) or read_event(body)


@pytest.mark.requirement("A109")
def test_a_providers_event_tops_up_once_and_a_forged_one_never(store: Store) -> None:
    prepaid(store)
    fake = FakeProvider()
    provider: PaymentProvider = fake
    asyncio.run(provider.checkout(ACCOUNT, "USD", 10 * 10**9))
    [(fields, body)] = fake.posted
    for _ in range(3):
        event = provider.receive(fields, body, 1_800_000_010.0)
        assert isinstance(event, PaymentEvent)
        store.payments.count(event)
    assert store.rows("SELECT granted FROM ledger_balances") == [(10 * 10**9,)]
    assert isinstance(provider.receive(fields, body.replace(b"10", b"99", 1), 1_800_000_010.0), Refusal)


@pytest.mark.parametrize("account", ["acme", "planet:acme/USD/never", "organization:/USD/never", "user:ann/USD/daily"])
def test_an_event_for_no_account_of_ours_is_refused(store: Store, account: str) -> None:
    prepaid(store)
    with pytest.raises(AccountsError, match="account"):
        store.payments.count(PaymentEvent(id="1", account=account, unit="USD", amount=1))
