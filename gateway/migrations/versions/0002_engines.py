"""Several engines: which one answered a request, which one a run belongs to; the endpoint and the client's own id."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; rows from before have no value in them."""
    op.add_column("usage_ledger", sa.Column("endpoint", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("engine", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("client_request_id", sa.String(128)))
    op.add_column("engine_runs", sa.Column("engine", sa.String(64)))
