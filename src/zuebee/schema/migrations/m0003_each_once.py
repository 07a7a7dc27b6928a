"""Each once: who resolves a hold that has expired, an id of the outbox, and what was used on an invoice."""

from datetime import UTC, datetime, timedelta

from alembic import op
from sqlalchemy import BigInteger, Column, Double, Index, Integer, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Bring a store from the version before to this one."""
    op.add_column("ledger_holds", Column("swept_at_s", Double, nullable=False, server_default="0"))
    if op.get_bind().dialect.name == "sqlite":
        _outbox()
    _unbilled()


def _outbox() -> None:
    """SQLite gives the id of a row that was removed again, unless the table was made with AUTOINCREMENT."""
    op.drop_index("usage_outbox_due", "usage_outbox")
    op.rename_table("usage_outbox", "usage_outbox_2")
    op.create_table(
        "usage_outbox",
        Column("id", Integer, primary_key=True),
        Column("event_id", Text, nullable=False, server_default=""),
        Column("reporter", Text, nullable=False, server_default=""),
        Column("payload", Text, nullable=False, server_default=""),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("created_at_s", Double, nullable=False, server_default="0"),
        Column("due_at_s", Double, nullable=False, server_default="0"),
        Column("record", BigInteger, nullable=False, server_default="0"),
        Column("currency", Text, nullable=False, server_default=""),
        Index("usage_outbox_due", "reporter", "due_at_s", "id"),
        sqlite_autoincrement=True,
    )
    columns = "id, event_id, reporter, payload, attempts, created_at_s, due_at_s, record, currency"
    op.execute(f"INSERT INTO usage_outbox ({columns}) SELECT {columns} FROM usage_outbox_2 ORDER BY id")
    op.drop_table("usage_outbox_2")


_TAKE_OVER = """
INSERT INTO unbilled_usage (organisation_id, month, user_id, model, currency, requests, prompt_tokens, cached_tokens,
    completion_tokens, cost_nano)
SELECT r.organisation_id, {month}, r.user_id, substr(r.model, 1, 200), '', count(*), coalesce(sum(r.prompt_tokens), 0),
    coalesce(sum(r.cached_tokens), 0), coalesce(sum(r.completion_tokens), 0), sum(r.cost_nano)
FROM usage_records r LEFT JOIN invoices i
    ON i.organisation_id = r.organisation_id AND r.at_s >= i.starts_at_s AND r.at_s < i.ends_at_s
WHERE r.organisation_id <> '' AND coalesce(r.prompt_tokens, 0) + coalesce(r.completion_tokens, 0) + r.cost_nano > 0
    AND (i.number IS NULL OR r.at_s + r.duration_ms / 1000.0 > i.created_at_s)
GROUP BY 1, 2, 3, 4
"""


def _unbilled() -> None:
    """What is on record and on no invoice; an invoice has what had ended when it was made."""
    names = [Column(name, Text, primary_key=True) for name in ("organisation_id", "user_id", "model", "currency")]
    names.insert(1, Column("month", BigInteger, primary_key=True))  # type: ignore[arg-type]
    counted = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano")
    numbers = [Column(name, BigInteger, nullable=False, server_default="0") for name in counted]
    op.create_table("unbilled_usage", *names, *numbers, sqlite_with_rowid=False)
    month = "CAST(strftime('%s', r.at_s, 'unixepoch', 'start of month') AS INTEGER)"
    if op.get_bind().dialect.name == "postgresql":
        month = "extract(epoch FROM date_trunc('month', to_timestamp(r.at_s) AT TIME ZONE 'UTC'))::int8"
    op.get_bind().exec_driver_sql(_TAKE_OVER.format(month=month))
    if (since := _since()) is not None:
        op.execute(f"INSERT INTO counters (name, value) VALUES ('unbilled_since', {since:d})")


def _since() -> int | None:
    """From which month on all is known, if records of earlier ones were removed: totals of days never are."""
    (first_day, last_day) = op.get_bind().exec_driver_sql("SELECT min(day), max(day) FROM usage_days").one()
    (first_s,) = op.get_bind().exec_driver_sql("SELECT min(at_s) FROM usage_records").one()
    if first_day is None or (first_s is not None and first_s // 86400 <= first_day):
        return None
    at = datetime.fromtimestamp(last_day * 86400 if first_s is None else first_s, UTC)
    following = (at.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(following.timestamp())
