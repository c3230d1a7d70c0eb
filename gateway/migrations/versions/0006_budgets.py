"""Budgets: what keys and tenants have spent by day, and the money that gateways hold for their requests."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the tables; nothing was spent by keys before there were any."""
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
