"""Budgets: spending of keys and tenants by day, and the budget leases of gateways."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables; they begin empty."""
    op.create_table(
        "spending",
        sa.Column("account", sa.String(80), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
    )
    budget = (("account", sa.String(80)), ("period", sa.String(8)), ("first_day", sa.Integer))
    op.create_table(
        "budget_periods",
        *(sa.Column(name, kind, primary_key=True) for name, kind in budget),
        sa.Column("wanted_us", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "budget_leases",
        *(sa.Column(name, kind, primary_key=True) for name, kind in budget),
        sa.Column("gateway", sa.String(32), primary_key=True),
        sa.Column("nano_usd", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "limit_use",
        sa.Column("gateway", sa.String(32), primary_key=True),
        sa.Column("account", sa.String(80), primary_key=True),
        sa.Column("seen_us", sa.BigInteger, nullable=False, index=True),
        sa.Column("running", sa.Integer, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("rpm", sa.BigInteger),
        sa.Column("tpm", sa.BigInteger),
    )
