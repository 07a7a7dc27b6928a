"""Money that comes in: each payment counts once, in the account of the ledger that it was made for."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, select

from zuebee.accounts import directory
from zuebee.accounts.directory import begin_write
from zuebee.accounts.entitlements import account_of
from zuebee.accounts.schemas import TOKENS, AccountsError, BudgetForm, Scope, show_amount
from zuebee.contracts.admission import MAX_BALANCE
from zuebee.contracts.errors import Refusal, bad_request
from zuebee.ledger.credit import credit, insert_if_missing
from zuebee.ledger.decide import TooMuch
from zuebee.ledger.operations import Credit
from zuebee.lib import clock
from zuebee.lib.sql.database import Database
from zuebee.schema.currency import hold_to
from zuebee.schema.tables import budgets, payments

# News of payments from outside: who may bring them, and what they say.
#
# Signed as the Standard Webhooks specification has it: HMAC-SHA256 over `ID.TIMESTAMP.BODY` in `webhook-signature`.

TOLERANCE_S = 300
MIN_SECRET_BYTES = 24
MAX_SIGNATURES = 10
_PREFIX = "whsec_"
_PLACEHOLDERS = ("change", "secret", "example", "password", "sk-1234", "your-", "test-secret", "default", "placeholder")

UNSIGNED = Refusal(401, "authentication_error", "invalid_signature", "The signature of this event is not valid.")


class PaymentEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One payment that was made. `id` is the provider's for ever; the amount is nano-units of `unit`, or tokens."""

    id: str
    account: str
    unit: str
    amount: int
    note: str = ""


class EventVerifier:
    """Knows the events of one provider by their signature. Several secrets while they are being changed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises ValueError for a secret that is missing, short, or known to everybody."""
        if not secrets:
            raise ValueError("there is no secret: anybody could sign")
        self._keys = [_key(secret) for secret in secrets]

    def verify(self, fields: Mapping[bytes, bytes], body: bytes, now_s: float) -> Refusal | None:
        """Whether the event is the provider's and from the last five minutes. `fields`: headers in lower case."""
        event_id = fields.get(b"webhook-id", b"")
        timestamp = fields.get(b"webhook-timestamp", b"")
        if not event_id or not timestamp.isdigit() or len(timestamp) > 12:
            return UNSIGNED
        if abs(now_s - int(timestamp)) > TOLERANCE_S:
            return UNSIGNED
        signed = b"%b.%b.%b" % (event_id, timestamp, body)
        expected = [hmac.digest(key, signed, hashlib.sha256) for key in self._keys]
        shown = fields.get(b"webhook-signature", b"").split()[:MAX_SIGNATURES]
        good = False
        for signature in filter(None, map(_signature, shown)):
            for digest in expected:
                good |= hmac.compare_digest(signature, digest)
        return None if good else UNSIGNED


def read_event(body: bytes) -> PaymentEvent | Refusal:
    """The body of an event in our own form: what a provider's module makes of its provider's."""
    try:
        event = msgspec.json.decode(body, type=PaymentEvent)
    except msgspec.DecodeError as error:
        return bad_request(f"The event cannot be read: {error}")
    if not event.id or len(event.id) > 200:
        return bad_request("The event has no id, or one of more than 200 characters.", param="id")
    if not 0 < event.amount <= MAX_BALANCE:
        return bad_request(f"The amount is not between 1 and {MAX_BALANCE}.", param="amount")
    return event


def sign(secret: str, event_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of a body, for providers that we play ourselves."""
    digest = hmac.digest(_key(secret), f"{event_id}.{timestamp_s}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    low = secret.strip().lower()
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise ValueError("the secret behind whsec_ is not base64") from None
    else:
        key = secret.encode()
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has less than {MIN_SECRET_BYTES} bytes")
    if len(set(key)) < 8 or any(low.startswith(word) for word in _PLACEHOLDERS):
        raise ValueError("the secret is a placeholder or too simple")
    return key


def _signature(text: bytes) -> bytes:
    version, _, value = text.partition(b",")
    if version != b"v1":
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


class Checkout(msgspec.Struct, frozen=True):
    """Where the payer pays, and the provider's id of it."""

    id: str
    url: str


class PaymentProvider(Protocol):
    """Somebody who takes money for us and says so by signed events."""

    name: str

    async def checkout(self, account: str, unit: str, amount: int) -> Checkout:
        """Begin a payment for an account; the amount is in nano-units of `unit`."""
        ...

    def receive(self, fields: Mapping[bytes, bytes], body: bytes, now_s: float) -> PaymentEvent | Refusal | None:
        """What an event says, once its signature is known to be the provider's. None: nothing for us."""
        ...


class Payment(msgspec.Struct, frozen=True):
    """One payment as it is kept. `fresh` is False when it had been counted before: then nothing has changed."""

    id: str
    account: str
    unit: str
    amount: int
    organization_id: str
    note: str
    at_s: float
    fresh: bool


class Payments:
    """Top-ups of prepaid accounts. Methods block; they may raise AccountsError and DatabaseError."""

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency

    def top_up(
        self, scope: Scope, name: str, *, payment_id: str, amount: int, unit: str = "", note: str = ""
    ) -> Payment:
        """Add to a holder's prepaid account. `unit`: the currency unless said. The same id again changes nothing."""
        unit = unit or self._currency
        return self._counted(scope, name, payment_id, amount, unit, note)

    def count(self, event: PaymentEvent) -> Payment:
        """Add what an event, whose signature was verified, says. The same event again changes nothing."""
        scope, _, rest = event.account.partition(":")
        holder, _, tail = rest.rpartition(f"/{event.unit}/")
        if scope not in ("organization", "team", "user", "key") or not holder or tail != "never":
            raise AccountsError("expected a prepaid account such as organization:ID/USD/never", field="account")
        known: Scope = scope  # type: ignore[assignment]
        return self._counted(known, holder, event.id, event.amount, event.unit, event.note)

    def _counted(self, scope: Scope, name: str, payment_id: str, amount: int, unit: str, note: str) -> Payment:
        if unit not in (TOKENS, self._currency):
            raise AccountsError(f"expected tokens or {self._currency}, the currency of `billing`", field="unit")
        return self._database.call(lambda c: _top_up(c, scope, name, payment_id, amount, unit, note))

    def listing(self, organization_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """The latest payments of an organization and what is below it."""
        statement = (
            select(payments)
            .where(payments.c.organization_id == organization_id)
            .order_by(payments.c.at_s.desc(), payments.c.id)
            .limit(max(1, min(limit, 1000)))
        )
        return self._database.call(lambda c: [dict(row) for row in c.execute(statement).mappings()])


def _top_up(
    connection: Connection, scope: Scope, name: str, payment_id: str, amount: int, unit: str, note: str
) -> Payment:
    if not 0 < amount <= MAX_BALANCE:
        most = show_amount(MAX_BALANCE, unit)
        raise AccountsError(f"expected an amount above 0, and not above {most}", field="amount")
    if not payment_id or len(payment_id) > 200 or not payment_id.isprintable() or "@" in payment_id:
        # An `@` marks the ledger's own grants.
        raise AccountsError("expected 1 to 200 printable characters without @", field="payment")
    begin_write(connection)
    if unit != TOKENS:
        hold_to(connection, unit)
    holder = directory.must(connection, scope, name)
    holder_id = holder["lineage"] if scope == "key" else holder["id"]
    account = account_of(scope, holder_id, unit, "never")
    organization_id = holder["id"] if scope == "organization" else holder["organization_id"]
    row: dict[str, Any] = {
        "id": payment_id, "organization_id": organization_id, "account": account, "currency": unit,
        "amount_nano": amount, "note": note[:1000], "at_s": clock.wall_s(),
    }  # fmt: skip
    # Whoever brings the same payment at the same time waits here, and then finds it.
    added = connection.execute(insert_if_missing(connection, payments, row).returning(payments.c.id))
    fresh = added.first() is not None
    if fresh:
        _open_account(connection, scope, holder, holder_id, unit)
        try:
            credit(connection, Credit(payment_id, account, unit, amount, row["at_s"]))
        except TooMuch:
            most = show_amount(MAX_BALANCE, unit)
            raise AccountsError(
                f"with it, `{account}` would have got more than {most} in its life", field="amount"
            ) from None
        kept = row
    else:
        kept = dict(connection.execute(select(payments).where(payments.c.id == payment_id)).mappings().one())
        if (kept["account"], kept["currency"], kept["amount_nano"]) != (account, unit, amount):
            raise AccountsError(
                "this payment was counted already, for another account or amount", field="payment", kind="conflict"
            )
    return Payment(payment_id, account, unit, amount, kept["organization_id"], kept["note"], kept["at_s"], fresh)


def _open_account(connection: Connection, scope: Scope, holder: Mapping[str, Any], holder_id: str, unit: str) -> None:
    """The holder's prepaid budget: its own, its plan's, or a prepaid key's. Raises AccountsError if there is none."""
    account = account_of(scope, holder_id, unit, "never")
    found = connection.execute(select(budgets.c.amount).where(budgets.c.account == account)).first()
    if found is None and not _prepaid_by_terms(connection, scope, holder, unit):
        raise AccountsError(
            f"`{account}` is not prepaid: give it a budget first, with --prepaid", field="account", kind="conflict"
        )
    if found is not None and found[0] is not None:
        raise AccountsError(f"`{account}` has a limit; change that instead", field="account", kind="conflict")
    if found is None:
        values: dict[str, Any] = {
            "scope": scope,
            "scope_id": holder_id,
            "unit": unit,
            "period": "never",
            "amount": None,
        }
        values |= {"account": account, "created_at_s": clock.wall_s()}
        connection.execute(insert_if_missing(connection, budgets, values))


def _prepaid_by_terms(connection: Connection, scope: Scope, holder: Mapping[str, Any], unit: str) -> bool:
    if scope == "key" and holder["billing"] == "prepaid" and unit != TOKENS:
        return True
    plan = directory.TABLES["plan"].c
    text = connection.execute(select(plan.budgets).where(plan.id == holder["plan"])).scalar() or "[]"
    forms = msgspec.json.decode(text, type=tuple[BudgetForm, ...])
    return any(form.amount is None and form.unit == unit for form in forms)
