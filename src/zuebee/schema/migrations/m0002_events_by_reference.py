"""The outbox names the usage record that an event is made of, and does not hold the event itself any more."""

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring a store from the version before to this one."""
    op.add_column("usage_outbox", Column("record", BigInteger, nullable=False, server_default="0"))
    op.add_column("usage_outbox", Column("currency", Text, nullable=False, server_default=""))
