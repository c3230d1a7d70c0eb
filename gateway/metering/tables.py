"""The tables of metering. Times are microseconds since the epoch (`_us`), hours and days are counted from it (UTC)."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, String, Table

metadata = MetaData()
TOKEN_KINDS = ("prompt_tokens", "cached_tokens", "completion_tokens")

# One row per request and attempt; see entry.py for the life of a row.
usage_ledger = Table(
    "usage_ledger",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("opened_us", BigInteger, nullable=False),
    Column("settled_us", BigInteger),
    Column("state", String(16), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("adapter", String(64)),
    Column("digest", String(64)),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer),
    Column("finish", String(16)),
    Column("evidence", String(16)),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("ttft_us", BigInteger),
    Column("endpoint", String(64)),
    Column("engine", String(64)),
    Column("client_request_id", String(128)),
    Column("cost_nano_usd", BigInteger),
    Column("gateway", String(16)),
    Column("gateway_run", String(16)),
    Column("latency_us", BigInteger),
    Column("price_version", String(32)),
    Column("engine_run", String(64)),
    Column("choices", Integer, nullable=False, server_default="1"),
    Column("error_code", String(64)),
    Column("error_message", String(320)),
    Column("queue_us", BigInteger),
)

# Costs booked by day; accounts are `key:<key id>` and `tenant:<name>`.
spending = Table(
    "spending",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
)

# Processes of gateways that write to the ledger, with their last heartbeat.
gateway_runs = Table(
    "gateway_runs",
    metadata,
    Column("run", String(16), primary_key=True),
    Column("gateway", String(16), nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
)

# Usage by the hour, kept when the ledger's rows are pruned.
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

# Busy time of engines by the hour; `reached_us` is the end of the last work that began in it.
engine_hours = Table(
    "engine_hours",
    metadata,
    Column("hour", Integer, primary_key=True),
    Column("engine", String(64), primary_key=True),
    Column("busy_us", BigInteger, nullable=False),
    Column("reached_us", BigInteger, nullable=False),
)

# One row: hours before `until_hour` are closed with so many rows; rows before `kept_from_hour` are pruned.
usage_summed = Table(
    "usage_summed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("until_hour", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("unsettled", BigInteger, nullable=False, server_default="0"),
    Column("kept_from_hour", Integer, nullable=False, server_default="0"),
)

# Uptime of engines: one row per stretch of time at one price.
engine_runs = Table(
    "engine_runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("started_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    Column("nano_usd_per_hour", BigInteger),
    Column("engine", String(64)),
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

# The engines' own token counters, by the run of the engine: first and last reading, and what pruned rows had booked.
engine_counts = Table(
    "engine_counts",
    metadata,
    Column("run", String(64), primary_key=True),
    Column("engine", String(64), nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("asked_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),
    *(Column(f"{moment}_{kind}", BigInteger, nullable=False) for moment in ("first", "last") for kind in TOKEN_KINDS),
    Column("pruned_rows", BigInteger, nullable=False, server_default="0"),
    *(Column(f"pruned_{kind}", BigInteger, nullable=False, server_default="0") for kind in TOKEN_KINDS),
)
