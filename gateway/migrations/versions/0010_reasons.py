"""Rows of the ledger say why their requests failed, and how long they waited."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; rows from before have no reason."""
    op.add_column("usage_ledger", sa.Column("error_code", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("error_message", sa.String(320)))
    op.add_column("usage_ledger", sa.Column("queue_us", sa.BigInteger))
