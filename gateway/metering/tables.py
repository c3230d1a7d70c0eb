"""The tables that costs are read from and kept in; the ledger itself belongs to `gateway.metering`."""

from sqlalchemy import JSON, BigInteger, Column, Integer, MetaData, String, Table

metadata = MetaData()

usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour", Integer, primary_key=True),
    Column("engine", String(64), primary_key=True),
    Column("adapter", String(64), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("long_prompt", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("unsettled", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("unanswered", BigInteger, nullable=False, server_default="0"),
)
engine_hours = Table(
    "engine_hours",
    metadata,
    Column("hour", Integer, primary_key=True),
    Column("engine", String(64), primary_key=True),
    Column("busy_us", BigInteger, nullable=False),
    Column("reached_us", BigInteger, nullable=False),
)
usage_summed = Table(
    "usage_summed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("until_hour", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("unsettled", BigInteger, nullable=False, server_default="0"),
    Column("kept_from_hour", Integer, nullable=False, server_default="0"),
)
adapter_loads = Table(
    "adapter_loads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("load_us", BigInteger, nullable=False),
    Column("engine", String(64), nullable=False),
    Column("adapter", String(64), nullable=False),
)
cost_evidence = Table(
    "cost_evidence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("made_us", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),
)
work_prices = Table(
    "work_prices",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("since_us", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),
)
