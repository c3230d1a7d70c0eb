"""Hourly usage separates answered requests from refused or failed ones."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column; hours that still have rows are summed again, older ones count all requests as answered."""
    op.add_column("usage_hours", sa.Column("unanswered", sa.BigInteger, nullable=False, server_default="0"))
    for table in ("usage_hours", "engine_hours"):
        op.execute(f"DELETE FROM {table} WHERE hour >= (SELECT MAX(kept_from_hour) FROM usage_summed)")  # noqa: S608
    op.execute("UPDATE usage_summed SET until_hour = kept_from_hour, requests = 0, unsettled = 0")
