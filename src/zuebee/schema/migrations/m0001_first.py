"""The first schema; it also takes over the file that version 0.1.0 wrote (usage records and totals of days)."""

from typing import Any

from alembic import op
from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Double,
    Index,
    Integer,
    LargeBinary,
    Text,
)

revision = "0001"
down_revision = None

Serial = BigInteger().with_variant(Integer, "sqlite")

_OLD_RECORDS = (
    "id, request_id, at_s, key_id, key_name, user_id, model, endpoint, is_stream, status, ending, code, backend,"
    " attempts, prompt_tokens, completion_tokens, usage_source, duration_ms, first_token_ms"
)
_OLD_DAYS = "key_id, day, requests, prompt_tokens, completion_tokens"


def upgrade() -> None:
    """Bring a new store, or one of version 0.1.0, to this version."""
    old = op.get_bind().dialect.name == "sqlite" and op.get_bind().exec_driver_sql("PRAGMA user_version").scalar() == 1
    if old:
        op.rename_table("usage_records", "usage_records_0")
        op.rename_table("usage_days", "usage_days_0")
    _who()
    _ledger()
    _usage()
    _answers()
    _money()
    if old:
        op.execute(f"INSERT INTO usage_records ({_OLD_RECORDS}) SELECT {_OLD_RECORDS} FROM usage_records_0 ORDER BY id")
        op.execute(f"INSERT INTO usage_days ({_OLD_DAYS}) SELECT {_OLD_DAYS} FROM usage_days_0")
        op.drop_table("usage_records_0")
        op.drop_table("usage_days_0")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("PRAGMA user_version=2")  # version 0.1.0 looks at this, and keeps away from a newer file


def _text(name: str, default: str = "") -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


def _number(name: str, default: int = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=str(default))


def _time(name: str) -> Column[float]:
    return Column(name, Double, nullable=False, server_default="0")


def _rights() -> list[Column[Any]]:
    return [
        _text("plan"), _time("plan_ends_at_s"),
        _text("models", "[]"), _text("endpoints", "[]"), _text("limits", "{}"),
        _text("status", "active"), _text("tags", "[]"), _time("created_at_s"),
    ]  # fmt: skip


def _who() -> None:
    op.create_table(
        "organisations",
        Column("id", Text, primary_key=True),
        _text("name"), *_rights(),
    )  # fmt: skip
    op.create_table(
        "teams",
        Column("id", Text, primary_key=True),
        _text("organisation_id"), _text("name"), *_rights(),
        Index("teams_organisation", "organisation_id"),
    )  # fmt: skip
    op.create_table(
        "users",
        Column("id", Text, primary_key=True),
        _text("organisation_id"), _text("team_id"), _text("name"), _text("role", "member"), *_rights(),
        Index("users_organisation", "organisation_id"),
    )  # fmt: skip
    op.create_table(
        "plans",
        Column("id", Text, primary_key=True),
        _text("name"), _text("priority", "normal"), _text("models", "[]"), _text("endpoints", "[]"),
        _text("limits", "{}"), _text("budgets", "[]"), _text("status", "active"), _time("created_at_s"),
    )  # fmt: skip
    op.create_table(
        "keys",
        Column("id", Text, primary_key=True),
        Column("digest", Text, nullable=False, unique=True),
        _text("hint"),
        _text("lineage"),
        _text("name"), _text("organisation_id"), _text("team_id"), _text("user_id"), *_rights(), _text("priority"),
        _text("billing", "none"),
        _text("allowed_ips", "[]"), _text("denied_ips", "[]"), _text("rotated_from"),
        _time("starts_at_s"), _time("expires_at_s"), _time("revoked_at_s"),
        Index("keys_lineage", "lineage"), Index("keys_created", "created_at_s", "id"),
    )  # fmt: skip
    op.create_table(
        "budgets",
        Column("account", Text, primary_key=True),
        _text("scope"), _text("scope_id"), _text("unit"), _text("period"),
        Column("amount", BigInteger, nullable=True),
        _time("created_at_s"),
        Index("budgets_scope", "scope", "scope_id"),
    )  # fmt: skip


def _ledger() -> None:
    op.create_table(
        "ledger_owners",
        Column("id", Serial, primary_key=True),
        _text("name"), _time("started_at_s"), _time("seen_at_s"), _time("ended_at_s"),
        _number("applied"),
    )  # fmt: skip
    op.create_table(
        "ledger_balances",
        Column("id", Serial, primary_key=True),
        _text("account"), _text("unit"), _text("period"), _time("starts_at_s"),
        _number("granted"), _number("held"), _number("used"), _number("overdraft"),
        _number("limited"), _number("changes"),
        Index("ledger_balances_account", "account", "starts_at_s", unique=True),
    )  # fmt: skip
    op.create_table(
        "ledger_paths",
        Column("id", Serial, primary_key=True),
        Column("balances", Text, nullable=False, unique=True),
    )  # fmt: skip
    op.create_table(
        "ledger_entries",
        Column("id", Serial, primary_key=True),
        _number("batch"),
        _text("kind"),
        _text("hold"),
        Column("step", Integer, nullable=True),
        _number("path"), _number("tokens"), _number("cost_nano"),
        _number("released_tokens"), _number("released_cost_nano"),
        _number("owner"), _time("at_s"),
        Index("ledger_entries_once", "hold", "step", unique=True),
    )  # fmt: skip
    op.create_table(
        "ledger_holds",
        Column("hold", Text, primary_key=True),
        _number("path"), _number("tokens"), _number("cost_nano"), _number("owner"), _time("expires_at_s"),
        _number("progress_tokens"), _number("progress_cost_nano"), _text("record", ""),
    )  # fmt: skip
    op.create_table(
        "ledger_batches",
        Column("id", Serial, primary_key=True),
        _number("owner"), _number("sequence"), _number("entries"), _text("hash"),
        Index("ledger_batches_chain", "owner", "sequence", unique=True),
    )  # fmt: skip


def _usage() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    rfc3339 = "strftime('%Y-%m-%dT%H:%M:%fZ', at_s, 'unixepoch')"
    op.create_table(
        "usage_records",
        Column("id", Serial, primary_key=True),
        _text("request_id"), _time("at_s"), _text("key_id"), _text("key_name"), _text("user_id"), _text("team_id"),
        _text("organisation_id"), _text("plan"), _text("priority"), _text("model"), _text("method"), _text("endpoint"),
        Column("is_stream", Boolean, nullable=False, server_default="0"),
        Column("status", Integer, nullable=False, server_default="0"),
        _text("ending"), _text("code"), _text("backend"), _text("backend_url"),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("prompt_tokens", BigInteger, nullable=True),
        Column("completion_tokens", BigInteger, nullable=True),
        Column("cached_tokens", BigInteger, nullable=True),
        Column("usage_source", Text, nullable=True),
        _number("cost_nano"),
        Column("duration_ms", Double, nullable=False, server_default="0"),
        Column("first_token_ms", Double, nullable=True),
        _text("tags", "[]"),
        Column("total_tokens", BigInteger, Computed("prompt_tokens + completion_tokens", persisted=postgres)),
        Column(
            "timestamp", TIMESTAMP(timezone=True) if postgres else Text(),
            Computed("to_timestamp(at_s)" if postgres else rfc3339, persisted=postgres),
        ),
    )  # fmt: skip
    op.create_table(
        "usage_days",
        Column("key_id", Text, primary_key=True),
        Column("day", Integer, primary_key=True),
        _number("requests"), _number("prompt_tokens"), _number("completion_tokens"), _number("cost_nano"),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "usage_outbox",
        Column("id", Serial, primary_key=True),
        _text("event_id"),
        _text("reporter"), _text("payload"), Column("attempts", Integer, nullable=False, server_default="0"),
        _time("created_at_s"), _time("due_at_s"),
        Index("usage_outbox_due", "reporter", "due_at_s", "id"),
    )  # fmt: skip


def _answers() -> None:
    op.create_table(
        "kept_answers",
        Column("id", Text, primary_key=True),
        _text("fingerprint"), _text("state", "running"), _number("owner"),
        Column("answer", LargeBinary, nullable=True),
        _time("created_at_s"), _time("expires_at_s"),
        Index("kept_answers_expiry", "expires_at_s"),
    )  # fmt: skip


def _money() -> None:
    op.create_table("counters", Column("name", Text, primary_key=True), _number("value"))
    op.create_table(
        "payments",
        Column("id", Text, primary_key=True),
        _text("organisation_id"), _text("account"), _text("currency"), _number("amount_nano"), _text("note"),
        _time("at_s"),
    )  # fmt: skip
    op.create_table(
        "invoices",
        Column("number", Text, primary_key=True),
        _text("organisation_id"), _time("starts_at_s"), _time("ends_at_s"), _text("currency"), _number("total_nano"),
        _text("lines", "[]"), _time("created_at_s"),
        Index("invoices_period", "organisation_id", "starts_at_s", "ends_at_s", unique=True),
    )  # fmt: skip
