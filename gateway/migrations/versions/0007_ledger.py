"""The ledger records gateways, attempts, price versions and engine runs; hourly usage outlives its rows."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add columns and tables; older rows have no gateway, and one choice each."""
    _name_what_a_row_rests_on()
    op.create_table(
        "gateway_runs",
        sa.Column("run", sa.String(16), primary_key=True),
        sa.Column("gateway", sa.String(16), nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "work_prices",
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("since_us", sa.BigInteger, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "engine_counts",
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("first_us", sa.BigInteger, nullable=False),
        sa.Column("asked_us", sa.BigInteger, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _first_and_last()),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("pruned_rows", "pruned_prompt_tokens", "pruned_cached_tokens", "pruned_completion_tokens")
        ),
    )


def _name_what_a_row_rests_on() -> None:
    op.add_column("usage_ledger", sa.Column("gateway", sa.String(16)))
    op.add_column("usage_ledger", sa.Column("gateway_run", sa.String(16)))
    op.add_column("usage_ledger", sa.Column("latency_us", sa.BigInteger))
    op.add_column("usage_ledger", sa.Column("price_version", sa.String(32)))
    op.add_column("usage_ledger", sa.Column("engine_run", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("choices", sa.Integer, nullable=False, server_default="1"))
    op.add_column("usage_summed", sa.Column("unsettled", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("usage_summed", sa.Column("kept_from_hour", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE usage_summed SET unsettled = (SELECT COALESCE(SUM(unsettled), 0) FROM usage_hours)")


def _first_and_last() -> list[str]:
    kinds = ("prompt_tokens", "cached_tokens", "completion_tokens")
    return [f"{moment}_{kind}" for moment in ("first", "last") for kind in kinds]
