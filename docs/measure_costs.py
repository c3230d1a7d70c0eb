"""Measures how long a month of a million ledger rows takes to be summed up: `make bench-costs`.

Writes docs/benchmarks/costs.json, from which `docs/build_reference.py` makes the table in docs/costs.md.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, text

from gateway.clock import DAY_US, now_us
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.inputs import CostQuery
from gateway.costs.report import CostReports
from gateway.database import open_database
from gateway.metering import usage_ledger
from gateway.metering.engine_uptime import EngineRuns
from gateway.metering.usage_summary import UsageSummary
from tests.databases import running_postgres

ROWS, DAYS, ADAPTERS, TENANTS = 1_000_000, 30, 20, 10
ROUNDS = 3
_BATCH = 20_000
OUT = Path(__file__).parent / "benchmarks" / "costs.json"


def main() -> None:
    """Measure both databases and write what was found."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[2],
        "rows": ROWS,
        "days": DAYS,
        "adapters": ADAPTERS,
        "tenants": TENANTS,
        "rounds": ROUNDS,
    }
    with tempfile.TemporaryDirectory() as scratch:
        found["SQLite"] = measured(f"sqlite:///{scratch}/turntable.db", Path(scratch))
        with running_postgres() as server:
            found["PostgreSQL"] = measured(server.migrated(), Path(scratch))
    OUT.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def measured(url: str, data_dir: Path) -> dict[str, float]:
    """Seconds that each step takes on one database, by the clock and, for `…_cpu_s`, of this process alone."""
    database = open_database(url)
    fill(database)
    summary = UsageSummary(database)
    began = time.perf_counter()
    summary.close_hours()
    first_s = time.perf_counter() - began
    runs = EngineRuns(database, lambda _: None)
    reports = CostReports(summary, runs, CostEvidenceStore(database), data_dir, base="base")
    until = now_us()
    query = CostQuery(0, until, ("adapter", "tenant", "day"))
    rows = sum(line.requests for line in reports.document(query).data)
    assert rows == ROWS, f"{rows} of {ROWS} rows were summed"
    found = {"first_s": first_s}
    works: dict[str, Callable[[], object]] = {
        "summary": lambda: summary.window(0, until),
        "document": lambda: reports.document(query),
    }
    for name, work in works.items():
        found[f"{name}_s"], found[f"{name}_cpu_s"] = median_s(work)
    print(url.partition(":")[0], found)
    database.dispose()
    return found


def median_s(work: Callable[[], object]) -> tuple[float, float]:
    """The medians of a few rounds: by the clock, and of this process's CPU."""
    times, cpu = [], []
    for _ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        times.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return statistics.median(times), statistics.median(cpu)


def fill(database: Engine) -> None:
    """A month of requests of many adapters and tenants on two engines."""
    columns = [column.name for column in usage_ledger.c]
    mark = "?" if database.dialect.name == "sqlite" else "%s"
    statement = f"INSERT INTO usage_ledger ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"  # noqa: S608
    connection = database.raw_connection()
    cursor, rows = connection.cursor(), []
    for row in made_up():
        rows.append([row.get(column) for column in columns])
        if len(rows) == _BATCH:
            cursor.executemany(statement, rows)
            rows = []
    cursor.executemany(statement, rows) if rows else None
    connection.commit()
    connection.close()
    with database.begin() as link:
        link.execute(text("ANALYZE"))


def made_up() -> Iterator[dict[str, Any]]:
    """The rows, in order of time, from the same seed every time."""
    choose = random.Random(1)  # noqa: S311
    adapters: Sequence[str | None] = [None, *(f"adapter-{number}" for number in range(ADAPTERS))]
    begin = now_us() - DAYS * DAY_US
    for number in range(ROWS):
        opened = begin + number * (DAYS * DAY_US) // ROWS
        prompt, tenant = min(30_000, int(choose.lognormvariate(6, 1))), choose.randrange(TENANTS)
        yield {
            "request_id": f"req_{number:024x}",
            "attempt": 1,
            "opened_us": opened,
            "settled_us": opened + choose.randrange(200_000, 5_000_000),
            "state": "settled",
            "tenant": f"tenant-{tenant}",
            "key_id": f"key-{tenant}",
            "model": "m",
            "adapter": choose.choice(adapters),
            "stream": True,
            "status": 200,
            "finish": "completed",
            "evidence": "exact",
            "prompt_tokens": prompt,
            "cached_tokens": prompt // 4,
            "completion_tokens": choose.randrange(1, 400),
            "endpoint": "/v1/chat/completions",
            "engine": f"engine-{number % 2}",
        }


if __name__ == "__main__":
    main()
