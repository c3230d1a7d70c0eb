"""A database with engine runs and what the cost reports say of it; windows lie within one day."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.costs.document import CostDocument
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.report import CostReports
from gateway.database import open_database
from gateway.metering.engine_uptime import EngineRuns
from gateway.metering.tables import engine_runs
from gateway.metering.usage_summary import UsageSummary
from gateway.money import NANO

NOW = now_us() // DAY_US * DAY_US - DAY_US // 2  # noon of yesterday: windows of hours lie within one day
SINCE = NOW - 2 * HOUR_US
CAPACITY = {
    "slo_per_s": 23.6,
    "saturated_per_s": 40.0,
    "prompt_tokens": 1024.0,
    "output_tokens": 128.0,
    "conclusion": "23.6 requests per second are within the limits",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """An empty SQLite database."""
    engine = open_database(f"sqlite:///{tmp_path / 'turntable.db'}")
    yield engine
    engine.dispose()


def run_of(database: Engine, begin: int, end: int, usd: Decimal | None, engine: str = "engine-0") -> None:
    """Write one run of an engine, from `begin` to `end` in microseconds, at `usd` per hour."""
    price = None if usd is None else int(usd * NANO)
    values = {"started_us": begin, "seen_us": end, "nano_usd_per_hour": price, "engine": engine}
    with database.begin() as connection:
        connection.execute(insert(engine_runs).values(values))


def reports_of(database: Engine, data_dir: Path) -> CostReports:
    """Build the reports as the gateway does."""
    runs = EngineRuns(database, lambda _: None)
    return CostReports(UsageSummary(database), runs, CostEvidenceStore(database), data_dir, base="base")


def parts_of(document: CostDocument) -> int:
    """Sum all parts of a document, in nano-USD."""
    costs = [line.cost_nano_usd or 0 for line in document.data] + [one.nano_usd for one in document.overhead]
    return sum(costs) + (document.idle_nano_usd or 0)
