"""All money of a store is of one currency, and what a limit granted is told apart from what was paid in."""

import logging

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0005"
down_revision = "0004"

_log = logging.getLogger("zuebee.schema")

# What was paid or billed decides, and of it the newest; else what was used; else what may be spent. The newest first.
_SAID = (
    "SELECT currency FROM (SELECT currency, at_s FROM payments UNION ALL SELECT currency, created_at_s FROM invoices)"
    " AS said GROUP BY currency ORDER BY max(at_s) DESC",
    "SELECT currency FROM unbilled_usage WHERE cost_nano > 0 GROUP BY currency ORDER BY max(month) DESC",
    "SELECT currency FROM usage_outbox GROUP BY currency ORDER BY max(id) DESC",
    "SELECT unit FROM budgets GROUP BY unit ORDER BY max(created_at_s) DESC",
    "SELECT unit FROM ledger_balances GROUP BY unit ORDER BY max(id) DESC",
)


def upgrade() -> None:
    """Bring a store from the version before to this one. Where nothing says a currency, the next start does."""
    op.create_table(
        "store_facts",
        Column("name", Text, primary_key=True),
        Column("value", Text, nullable=False, server_default=""),
    )
    op.add_column("usage_records", Column("currency", Text, nullable=False, server_default=""))
    op.add_column("ledger_owners", Column("currency", Text, nullable=False, server_default=""))
    op.add_column("ledger_balances", Column("apart", BigInteger, nullable=False, server_default="0"))
    said = [name for query in _SAID for name in _names(query)]
    if said:
        op.get_bind().exec_driver_sql(f"INSERT INTO store_facts (name, value) VALUES ('currency', '{said[0]}')")
    if others := sorted(set(said) - set(said[:1])):
        _log.warning(
            "this store has amounts in %s and in %s: from now on it counts in %s (docs/store.md#currency)",
            said[0], ", ".join(others), said[0],
        )  # fmt: skip


def _names(query: str) -> list[str]:
    """What it finds that is a currency: neither tokens nor nothing."""
    found = op.get_bind().exec_driver_sql(query).scalars()
    return [name for name in found if len(name) == 3 and name.isascii() and name.isalpha()]
