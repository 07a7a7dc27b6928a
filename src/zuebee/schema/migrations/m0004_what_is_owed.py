"""Holds may be cut down to what is left of a budget; what they lack is owed to them while they are open."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Bring a store from the version before to this one."""
    op.add_column("ledger_balances", Column("owed", BigInteger, nullable=False, server_default="0"))
    for name in ("owed_tokens", "owed_cost_nano"):
        op.add_column("ledger_holds", Column(name, BigInteger, nullable=False, server_default="0"))
