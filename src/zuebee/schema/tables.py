"""Every table of the store, for SQLite and PostgreSQL. Times are seconds since 1970, money is in nano-units.

The hot path writes its rows with SQL of its own; a test holds that SQL to these tables.
"""

from typing import Any

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles

metadata = MetaData()

# An integer key that the database counts up: SQLite's rowid, PostgreSQL's sequence.
Serial = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str, default: str = "") -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


def _number(name: str, default: int = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=str(default))


def _key(table: str, name: str, other: str) -> Column[int]:
    """The id of a row of another table, which is there."""
    return Column(
        name, BigInteger, ForeignKey(f"{other}.id", name=f"{table}_{name}"), nullable=False, server_default="0"
    )


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default="0")


class _Expression(ColumnElement[Any]):
    """SQL that each database has its own words for."""

    inherit_cache = False

    def __init__(self, **words: str) -> None:
        self.words = words


class _Derived(Computed):
    """A column computed from others, for people's SQL: when it is read in SQLite, when it is written elsewhere."""


@compiles(_Expression)
def _in_its_words(expression: _Expression, compiler: Any, **_: Any) -> str:
    return expression.words[compiler.dialect.name]


@compiles(_Derived)
def _generated(derived: _Derived, compiler: Any, **_: Any) -> str:
    kind = "VIRTUAL" if compiler.dialect.name == "sqlite" else "STORED"
    return f"GENERATED ALWAYS AS ({compiler.sql_compiler.process(derived.sqltext)}) {kind}"


def _derived(*, sqlite: str, postgresql: str) -> Computed:
    return _Derived(_Expression(sqlite=sqlite, postgresql=postgresql))


def _rights() -> list[Column[Any]]:
    """What each holder of rights has: a plan and until when it is paid, and limits of its own below it."""
    return [
        _text("plan"), _time("plan_ends_at_s"),
        _text("models", "[]"), _text("endpoints", "[]"), _text("limits", "{}"),
        _text("status", "active"), _text("tags", "[]"), _time("created_at_s"),
    ]  # fmt: skip


# --- who ---

organizations = Table(
    "organizations", metadata,
    Column("id", Text, primary_key=True),
    _text("name"), *_rights(),
)  # fmt: skip

teams = Table(
    "teams", metadata,
    Column("id", Text, primary_key=True),
    _text("organization_id"), _text("name"), *_rights(),
    Index("teams_organization", "organization_id"),
)  # fmt: skip

users = Table(
    "users", metadata,
    Column("id", Text, primary_key=True),
    _text("organization_id"), _text("team_id"), _text("name"), _text("role", "member"), *_rights(),
    Index("users_organization", "organization_id"),
)  # fmt: skip

plans = Table(
    "plans", metadata,
    Column("id", Text, primary_key=True),
    _text("name"), _text("priority", "normal"), _text("models", "[]"), _text("endpoints", "[]"),
    _text("limits", "{}"), _text("budgets", "[]"), _text("status", "active"), _time("created_at_s"),
)  # fmt: skip

keys = Table(
    "keys", metadata,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),  # SHA-256 in hex; the key itself is nowhere
    _text("hint"),  # its first and last characters, for people
    _text("lineage"),  # the id of the first key that this one replaces: budgets and limits count for all of them
    _text("name"), _text("organization_id"), _text("team_id"), _text("user_id"), *_rights(), _text("priority"),
    _text("billing", "none"),  # none, quota, prepaid
    _text("allowed_ips", "[]"), _text("denied_ips", "[]"), _text("rotated_from"),
    _time("starts_at_s"), _time("expires_at_s"), _time("revoked_at_s"),
    Index("keys_lineage", "lineage"), Index("keys_created", "created_at_s", "id"),
)  # fmt: skip

budgets = Table(
    "budgets", metadata,
    Column("account", Text, primary_key=True),  # SCOPE:ID/UNIT/PERIOD
    _text("scope"), _text("scope_id"), _text("unit"), _text("period"),
    Column("amount", BigInteger, nullable=True),  # None: prepaid, only what was granted
    _time("created_at_s"),
    Index("budgets_scope", "scope", "scope_id"),
)  # fmt: skip

# --- the ledger: entries are only ever appended ---

ledger_owners = Table(
    "ledger_owners", metadata,
    Column("id", Serial, primary_key=True),  # the epoch: each start of a process is a new owner
    _text("name"), _time("started_at_s"), _time("seen_at_s"), _time("ended_at_s"),
    _number("applied"),  # PostgreSQL: the newest of its batches that was committed
    _text("currency"),  # PostgreSQL: what it counts in; who finds another one there does not write any more
)  # fmt: skip

ledger_balances = Table(
    "ledger_balances", metadata,
    Column("id", Serial, primary_key=True),
    _text("account"), _text("unit"), _text("period"),
    _number("starts_at_s"),  # of the period: a whole second
    _number("granted"), _number("held"), _number("used"), _number("overdraft"),
    _number("limited"),  # how much of `granted` came from the budget's limit
    _number("changes"),  # how often the limit was set, the first time included
    _number("owed"),  # PostgreSQL: what open holds that were cut down may need beyond what they hold
    _number("apart"),  # how much of `used` was paid for when the limit came; -1: it went, the account is prepaid
    CheckConstraint(
        "granted >= 0 AND held >= 0 AND used >= 0 AND overdraft >= 0 AND owed >= 0 AND apart >= -1"
        " AND used + held <= granted + overdraft",
        name="ledger_balances_figures",
    ),
    Index("ledger_balances_account", "account", "starts_at_s", unique=True),
)  # fmt: skip

ledger_paths = Table(
    "ledger_paths", metadata,
    Column("id", Serial, primary_key=True),
    Column("balances", Text, nullable=False, unique=True),  # ids of ledger_balances in order: `3,17,4`
)  # fmt: skip

ledger_entries = Table(
    "ledger_entries", metadata,
    Column("id", Serial, primary_key=True),
    _number("batch"),  # with the owner: a row of ledger_batches
    _text("kind"),  # grant, withdraw, reserve, extend, post, overdraft, void, expire, adjust
    _text("hold"),  # the request's id, or the id that the caller gave a grant
    Column("step", Integer, nullable=True),  # 0: reserve or grant, 1: its one resolution, 2: a late one; else null
    _number("path"), _number("tokens"), _number("cost_nano"),
    _number("released_tokens"), _number("released_cost_nano"),  # what a resolution took from `held`
    _number("owner"), _time("at_s"),
    CheckConstraint(
        "tokens >= 0 AND cost_nano >= 0 AND released_tokens >= 0 AND released_cost_nano >= 0",
        name="ledger_entries_amounts",
    ),
    Index("ledger_entries_once", "hold", "step", unique=True),
)  # fmt: skip

ledger_holds = Table(
    "ledger_holds", metadata,  # the holds that are open; gone when resolved
    Column("hold", Text, primary_key=True),
    _key("ledger_holds", "path", "ledger_paths"), _number("tokens"), _number("cost_nano"),
    _key("ledger_holds", "owner", "ledger_owners"), _time("expires_at_s"),
    _number("progress_tokens"), _number("progress_cost_nano"), _text("record", ""),
    _time("swept_at_s"),  # when a process last found that it has expired, and took it upon itself
    _number("owed_tokens"), _number("owed_cost_nano"),  # PostgreSQL: what it lacks of its worst case
    CheckConstraint(
        "tokens >= 0 AND cost_nano >= 0 AND progress_tokens >= 0 AND progress_cost_nano >= 0"
        " AND owed_tokens >= 0 AND owed_cost_nano >= 0",
        name="ledger_holds_amounts",
    ),
)  # fmt: skip

ledger_batches = Table(
    "ledger_batches", metadata,  # one for each commit with entries; each owner's form a hash chain
    Column("id", Serial, primary_key=True),
    _key("ledger_batches", "owner", "ledger_owners"),
    _number("sequence"), _number("entries"), _text("hash"),
    Index("ledger_batches_chain", "owner", "sequence", unique=True),
)  # fmt: skip

# --- what was used, and who must still be told ---

usage_records = Table(
    "usage_records", metadata,
    Column("id", Serial, primary_key=True),
    _text("request_id"), _time("at_s"), _text("key_id"), _text("key_name"), _text("user_id"), _text("team_id"),
    _text("organization_id"), _text("plan"), _text("priority"), _text("model"), _text("method"), _text("endpoint"),
    Column("is_stream", Boolean, nullable=False, server_default="0"),
    Column("status", Integer, nullable=False, server_default="0"),
    _text("termination_reason"), _text("code"), _text("backend"), _text("backend_url"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger, nullable=True),
    Column("completion_tokens", BigInteger, nullable=True),
    Column("cached_tokens", BigInteger, nullable=True),
    Column("usage_source", Text, nullable=True),
    _number("cost_nano"),
    Column("duration_ms", Double, nullable=False, server_default="0"),
    Column("first_token_ms", Double, nullable=True),
    _text("tags", "[]"),
    Column("total_tokens", BigInteger, _Derived("prompt_tokens + completion_tokens")),
    Column(
        "timestamp", Text().with_variant(TIMESTAMP(timezone=True), "postgresql"),
        _derived(sqlite="strftime('%Y-%m-%dT%H:%M:%fZ', at_s, 'unixepoch')", postgresql="to_timestamp(at_s)"),
    ),
    _text("currency"),  # of its cost; empty: that of the store (from before schema 5)
)  # fmt: skip

usage_days = Table(
    "usage_days", metadata,
    Column("key_id", Text, primary_key=True),
    Column("day", Integer, primary_key=True),
    _number("requests"), _number("prompt_tokens"), _number("completion_tokens"), _number("cost_nano"),
    sqlite_with_rowid=False,
)  # fmt: skip

unbilled_usage = Table(
    "unbilled_usage", metadata,  # what is on no invoice yet: an invoice takes it away
    Column("organization_id", Text, primary_key=True),
    Column("month", BigInteger, primary_key=True),  # its first second
    Column("user_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("currency", Text, primary_key=True),  # empty: that of the store (from before schema 3)
    _number("requests"), _number("prompt_tokens"), _number("cached_tokens"), _number("completion_tokens"),
    _number("cost_nano"),
    sqlite_with_rowid=False,
)  # fmt: skip

usage_outbox = Table(
    "usage_outbox", metadata,  # one row for each record and reporter, gone when delivered
    Column("id", Serial, primary_key=True),
    _text("event_id"),  # stable: the request's id
    _text("reporter"),
    _text("payload"),  # the event itself, where `record` is 0: so it was written before schema 2
    Column("attempts", Integer, nullable=False, server_default="0"),
    _time("created_at_s"), _time("due_at_s"),
    _number("record"),  # the usage record that the event is made of when it is delivered
    _text("currency"),  # of its cost
    Index("usage_outbox_due", "reporter", "due_at_s", "id"),
    sqlite_autoincrement=True,  # no id comes again: whoever delivers remembers them
)  # fmt: skip

# --- idempotency records ---

kept_answers = Table(
    "kept_answers", metadata,
    Column("id", Text, primary_key=True),  # a hash of the key's id and the Idempotency-Key
    _text("fingerprint"), _text("state", "running"), _number("owner"),
    Column("answer", LargeBinary, nullable=True),  # encrypted; only the same request can open it
    _time("created_at_s"), _time("expires_at_s"),
    Index("kept_answers_expiry", "expires_at_s"),
)  # fmt: skip

# --- money in and out ---

payments = Table(
    "payments", metadata,
    Column("id", Text, primary_key=True),  # the payment provider's id: a payment counts once
    _text("organization_id"), _text("account"), _text("currency"), _number("amount_nano"), _text("note"),
    _time("at_s"),
    CheckConstraint("amount_nano > 0", name="payments_amount"),
)  # fmt: skip

invoices = Table(
    "invoices", metadata,
    Column("number", Text, primary_key=True),
    _text("organization_id"), _number("starts_at_s"), _number("ends_at_s"), _text("currency"), _number("total_nano"),
    _text("lines", "[]"), _time("created_at_s"),
    CheckConstraint("total_nano >= 0 AND starts_at_s < ends_at_s", name="invoices_total"),
    Index("invoices_period", "organization_id", "starts_at_s", "ends_at_s", unique=True),
)  # fmt: skip

counters = Table(
    "counters", metadata,  # numbers without gaps: the row is locked until the one who took a number has used it
    Column("name", Text, primary_key=True),
    _number("value"),
)  # fmt: skip

store_facts = Table(
    "store_facts", metadata,  # `currency`: that of all money; missing: nobody has said it yet
    Column("name", Text, primary_key=True),
    _text("value"),
)  # fmt: skip
