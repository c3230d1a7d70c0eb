"""The registry's SQL tables, as the migrations of the gateway create them."""

from sqlalchemy import JSON, Boolean, Column, DateTime, Float, Integer, MetaData, String, Table

metadata = MetaData()

# One row. Every change begins by raising it, which makes changes wait for each other on any database, and tells other
# gateways that there is something to read.
revisions = Table("registry_revision", metadata, Column("revision", Integer, primary_key=True))

# A name and its traffic policy. `revision` here is the one that last changed the name or any of its versions, and below
# the one that last changed that version.
adapters = Table(
    "adapters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("live_version", Integer),
    Column("previous_version", Integer),
    Column("canary_version", Integer),
    Column("canary_percent", Float),
    Column("shadow_version", Integer),
    Column("shadow_percent", Float),
    Column("pinned", Boolean, nullable=False, default=False),
    Column("revision", Integer, nullable=False, index=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
versions = Table(
    "adapter_versions",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("manifest", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
# The newest document of each kind that speaks for or against a version, such as the probe's.
evidence = Table(
    "adapter_evidence",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("document", JSON, nullable=False),
    Column("actor", String, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String, nullable=False, index=True),
    Column("evidence", JSON, nullable=False),
)
