"""Feedback on answers, and counts of sampled live answers by version and day."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables, and an index to find a ledger row by the client request id."""
    op.create_table(
        "feedback",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False, index=True),
        sa.Column("adapter", sa.String(64), index=True),
        sa.Column("digest", sa.String(64)),
        sa.Column("rating", sa.Float, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("comment", sa.Text),
        sa.Column("expected", sa.Text),
        sa.Column("messages", sa.JSON),
        sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "watched_answers",
        sa.Column("adapter", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("measure", sa.String(96), primary_key=True),
        sa.Column("bucket", sa.String(96), primary_key=True),
        sa.Column("answers", sa.BigInteger, nullable=False),
    )
    given = sa.text("client_request_id IS NOT NULL")
    op.create_index(
        "ix_usage_ledger_client_request_id",
        "usage_ledger",
        ["client_request_id"],
        sqlite_where=given,
        postgresql_where=given,
    )
