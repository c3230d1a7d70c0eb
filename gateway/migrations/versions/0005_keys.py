"""API keys and tenants, and the revision by which gateways see their changes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; before, there was only the admin key, to which existing ledger rows belong."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("adapters", sa.JSON, nullable=False),
        *_limits(),
        sa.Column("budgets", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("old_digest", sa.String(64)),
        sa.Column("old_until_us", sa.BigInteger),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("revoked_us", sa.BigInteger),
        sa.Column("revision", sa.Integer, nullable=False, index=True),
    )
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        *_limits(),
        sa.Column("budgets", sa.JSON, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
        sa.Column("revision", sa.Integer, nullable=False, index=True),
    )
    revisions = op.create_table(
        "keys_revision",
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("pepper_check", sa.String(64)),
    )
    op.bulk_insert(revisions, [{"revision": 0, "pepper_check": None}])


def _limits() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger) for name in ("rpm", "tpm", "max_concurrency", "max_tokens")]
