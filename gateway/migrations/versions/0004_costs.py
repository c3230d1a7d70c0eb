"""Costs: cost of each request, usage by hour, adapter loads, and cost evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column and the tables; past hours are summed on first use."""
    op.add_column("usage_ledger", sa.Column("cost_nano_usd", sa.BigInteger))
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("engine", sa.String(64), primary_key=True),
        sa.Column("adapter", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("long_prompt", sa.BigInteger, primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("requests", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens")
        ),
    )
    op.create_table(
        "engine_hours",
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("engine", sa.String(64), primary_key=True),
        sa.Column("busy_us", sa.BigInteger, nullable=False),
        sa.Column("reached_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "usage_summed",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("until_hour", sa.Integer, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO usage_summed (id, until_hour, requests) VALUES (1, 0, 0)")
    op.create_table(
        "adapter_loads",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
        sa.Column("load_us", sa.BigInteger, nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("adapter", sa.String(64), nullable=False),
    )
    op.create_table(
        "cost_evidence",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("made_us", sa.BigInteger, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
