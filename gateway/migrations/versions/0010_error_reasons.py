"""Ledger rows record why a request failed, and how long it waited."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; older rows have no reason."""
    op.add_column("usage_ledger", sa.Column("error_code", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("error_message", sa.String(320)))
    op.add_column("usage_ledger", sa.Column("queue_us", sa.BigInteger))
