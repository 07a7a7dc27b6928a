"""Organizations by their American name, periods that begin at whole seconds, and what must hold stated in tables."""

import logging
from typing import Any

import sqlalchemy
from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Double, ForeignKey, Integer, Text

revision = "0006"
down_revision = "0005"

_log = logging.getLogger("zuebee.schema")

_OF_ORGANIZATIONS = ("teams", "users", "keys", "usage_records", "unbilled_usage", "payments", "invoices")
_INDEXES = (("teams", ("organization_id",)), ("users", ("organization_id",)))

FIGURES = (
    "granted >= 0 AND held >= 0 AND used >= 0 AND overdraft >= 0 AND owed >= 0 AND apart >= -1"
    " AND used + held <= granted + overdraft"
)
AMOUNTS = "tokens >= 0 AND cost_nano >= 0 AND released_tokens >= 0 AND released_cost_nano >= 0"
HELD = (
    "tokens >= 0 AND cost_nano >= 0 AND progress_tokens >= 0 AND progress_cost_nano >= 0"
    " AND owed_tokens >= 0 AND owed_cost_nano >= 0"
)
_CHECKS = (
    ("ledger_balances", "ledger_balances_figures", FIGURES),
    ("ledger_entries", "ledger_entries_amounts", AMOUNTS),
    ("ledger_holds", "ledger_holds_amounts", HELD),
    ("payments", "payments_amount", "amount_nano > 0"),
    ("invoices", "invoices_total", "total_nano >= 0 AND starts_at_s < ends_at_s"),
)
_WHOLE_SECONDS = (("ledger_balances", "starts_at_s"), ("invoices", "starts_at_s"), ("invoices", "ends_at_s"))
_KEYS = (("ledger_holds", "path", "ledger_paths"), ("ledger_holds", "owner", "ledger_owners"),
         ("ledger_batches", "owner", "ledger_owners"))  # fmt: skip


def upgrade() -> None:
    """Bring a store from the version before to this one. What does not hold in it is told, and not stated."""
    _rename()
    if op.get_bind().dialect.name == "sqlite":
        _make_anew()
    else:
        for table, column in _WHOLE_SECONDS:
            op.alter_column(table, column, server_default=None)
            op.alter_column(
                table, column, type_=BigInteger, server_default="0", postgresql_using=f"round({column})::int8"
            )
        for table, name, condition in _CHECKS:
            if _holds(table, condition):
                op.create_check_constraint(name, table, condition)
        for table, column, other in _KEYS:
            if _leads(table, column, other):
                op.create_foreign_key(f"{table}_{column}", table, other, [column], ["id"])


def _rename() -> None:
    op.rename_table("organisations", "organizations")
    for table, _ in _INDEXES:
        op.drop_index(f"{table}_organisation", table)
    for table in _OF_ORGANIZATIONS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN organisation_id TO organization_id")
    for table, columns in _INDEXES:
        op.create_index(f"{table}_organization", table, list(columns))
    named = "account LIKE 'organisation:%'"
    for table in ("budgets", "ledger_balances", "payments"):
        op.execute(f"UPDATE {table} SET account = 'organization' || substr(account, 13) WHERE {named}")
    op.execute("ALTER TABLE usage_records RENAME COLUMN ending TO termination_reason")
    for old, new in (("organisation_id", "organization_id"), ("ending", "termination_reason")):
        op.execute(f"UPDATE usage_outbox SET payload = replace(payload, '\"{old}\":', '\"{new}\":')")
    op.execute("UPDATE budgets SET scope = 'organization' WHERE scope = 'organisation'")
    for table in ("organizations", "teams", "users", "keys", "plans"):
        op.execute(f"UPDATE {table} SET limits = replace(limits, '\"when_down\"', '\"on_store_down\"')")


def _make_anew() -> None:
    """SQLite adds no constraints to a table: it is made anew. The paths and owners that others name stay."""
    _copy(
        "ledger_balances",
        Column("id", Integer, primary_key=True),
        *_texts("account", "unit", "period"),
        *_numbers("starts_at_s", "granted", "held", "used", "overdraft", "limited", "changes", "owed", "apart"),
        *_checked(0),
        starts_at_s="CAST(round(starts_at_s) AS INTEGER)",
    )
    op.create_index("ledger_balances_account", "ledger_balances", ["account", "starts_at_s"], unique=True)
    _copy(
        "ledger_entries",
        Column("id", Integer, primary_key=True),
        *_numbers("batch"), *_texts("kind", "hold"), Column("step", Integer, nullable=True),
        *_numbers("path", "tokens", "cost_nano", "released_tokens", "released_cost_nano", "owner"), _time("at_s"),
        *_checked(1),
    )  # fmt: skip
    op.create_index("ledger_entries_once", "ledger_entries", ["hold", "step"], unique=True)
    _copy(
        "ledger_holds",
        Column("hold", Text, primary_key=True),
        _key("ledger_holds", "path", "ledger_paths"), *_numbers("tokens", "cost_nano"),
        _key("ledger_holds", "owner", "ledger_owners"), _time("expires_at_s"),
        *_numbers("progress_tokens", "progress_cost_nano"), *_texts("record"), _time("swept_at_s"),
        *_numbers("owed_tokens", "owed_cost_nano"), *_checked(2),
    )  # fmt: skip
    _copy(
        "ledger_batches",
        Column("id", Integer, primary_key=True),
        _key("ledger_batches", "owner", "ledger_owners"),
        *_numbers("sequence", "entries"), *_texts("hash"),
    )  # fmt: skip
    op.create_index("ledger_batches_chain", "ledger_batches", ["owner", "sequence"], unique=True)
    _copy(
        "payments",
        Column("id", Text, primary_key=True),
        *_texts("organization_id", "account", "currency"), *_numbers("amount_nano"), *_texts("note"), _time("at_s"),
        *_checked(3),
    )  # fmt: skip
    _copy(
        "invoices",
        Column("number", Text, primary_key=True),
        *_texts("organization_id"), *_numbers("starts_at_s", "ends_at_s"), *_texts("currency"),
        *_numbers("total_nano"), Column("lines", Text, nullable=False, server_default="[]"), _time("created_at_s"),
        *_checked(4),
        starts_at_s="CAST(round(starts_at_s) AS INTEGER)", ends_at_s="CAST(round(ends_at_s) AS INTEGER)",
    )  # fmt: skip
    op.create_index("invoices_period", "invoices", ["organization_id", "starts_at_s", "ends_at_s"], unique=True)


def _copy(table: str, *parts: Any, **read: str) -> None:
    """Make a table anew, with the rows of the old one. `read`: how a column is read of it."""
    old = f"{table}_5"
    op.rename_table(table, old)
    op.create_table(table, *parts)
    names = [part.name for part in parts if isinstance(part, Column)]
    values = ", ".join(read.get(name, name) for name in names)
    op.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {old} ORDER BY {names[0]}")
    op.drop_table(old)


def _texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False, server_default="") for name in names]


def _numbers(*names: str) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in names]


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default="0")


def _key(table: str, name: str, other: str) -> Column[int]:
    key = (ForeignKey(f"{other}.id", name=f"{table}_{name}"),) if _leads(table, name, other) else ()
    return Column(name, BigInteger, *key, nullable=False, server_default="0")


def _checked(place: int) -> list[CheckConstraint]:
    table, name, condition = _CHECKS[place]
    return [CheckConstraint(condition, name=name)] if _holds(table, condition) else []


def _holds(table: str, condition: str) -> bool:
    return _none(table, f"SELECT 1 FROM {table} WHERE NOT ({condition}) LIMIT 1")


def _leads(table: str, column: str, other: str) -> bool:
    without = f"NOT EXISTS (SELECT 1 FROM {other} o WHERE o.id = t.{column})"
    return _none(table, f"SELECT 1 FROM {table} t WHERE {without} LIMIT 1")


def _none(table: str, question: str) -> bool:
    if op.get_bind().execute(sqlalchemy.text(question)).first() is None:
        return True
    _log.error("%s has rows that are not right (`zuebee ledger verify` says which): it is left without a guard", table)
    return False
