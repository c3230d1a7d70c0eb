"""Traffic policies of adapters, evidence of versions, and the revision by which gateways see changes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables; existing adapters keep their live version and have nothing to roll back to."""
    op.add_column("adapters", sa.Column("previous_version", sa.Integer))
    op.add_column("adapters", sa.Column("canary_version", sa.Integer))
    op.add_column("adapters", sa.Column("canary_percent", sa.Float))
    op.add_column("adapters", sa.Column("shadow_version", sa.Integer))
    op.add_column("adapters", sa.Column("shadow_percent", sa.Float))
    op.add_column("adapters", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("adapters", sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    op.add_column("adapter_versions", sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_adapters_revision", "adapters", ["revision"])
    op.create_index("ix_audit_log_subject", "audit_log", ["subject"])
    op.create_table(
        "adapter_evidence",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    revisions = op.create_table("registry_revision", sa.Column("revision", sa.Integer, primary_key=True))
    op.bulk_insert(revisions, [{"revision": 0}])
