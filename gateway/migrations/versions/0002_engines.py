"""Several engines: engine of a ledger row and of an engine run; endpoint and client request id of a row."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; older rows have no value in them."""
    op.add_column("usage_ledger", sa.Column("endpoint", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("engine", sa.String(64)))
    op.add_column("usage_ledger", sa.Column("client_request_id", sa.String(128)))
    op.add_column("engine_runs", sa.Column("engine", sa.String(64)))
