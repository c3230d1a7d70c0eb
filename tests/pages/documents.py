"""Every page that Turntable writes to a file, made from small documents with long names, limits and many levels."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from gateway.costs.evidence import EvidenceKind
from gateway.costs.inputs import CostQuery
from gateway.costs.page import html_page as costs_page
from gateway.database import open_database
from loadtest.metrics import Slo
from loadtest.page import html_page as loadtest_page
from loadtest.study import Level, Study
from tests.gateway.costs.cost_reports import CAPACITY, NOW, SINCE, reports_of, run_of
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.loadtest.load_reports import SETTINGS, report, study
from tests.trainer.commands import run
from tests.trainer.report import comparisons
from trainer.cli.report import app as report_app

LONG = "legal-summaries-of-a-department-with-a-very-long-name@v12"


def costs(folder: Path) -> str:
    database = open_database(f"sqlite:///{folder / 'turntable.db'}")
    run_of(database, SINCE, NOW, Decimal("2.69"))
    adapters = (None, LONG, "support")
    rows = [
        row(n, SINCE + n * 20_000_000, prompt_tokens=1024, completion_tokens=128) | {"adapter": adapters[n % 3]}
        for n in range(50)
    ]
    write_rows(database, rows)
    reports = reports_of(database, folder)
    reports.store.add(EvidenceKind.CAPACITY, CAPACITY)
    text = costs_page(reports.document(CostQuery(SINCE, NOW)))
    database.dispose()
    return text


def decision(folder: Path) -> str:
    path = comparisons.saved(folder / "c", comparisons.report())
    assert run(report_app, path, "--data-dir", folder / "var").exit_code == 0
    return path.with_name("c-decision.html").read_text()


def load_run(folder: Path) -> str:
    return loadtest_page(report(settings=replace(SETTINGS, models=("base", LONG), slo=Slo(ttft_ms=200))).as_json())


def load_sweep(folder: Path) -> str:
    return loadtest_page(study().as_json())


def load_capacity(folder: Path) -> str:
    """Many levels with repeats, limits of requests and of levels, and the capacity."""
    settings = replace(SETTINGS, models=("base", LONG), slo=Slo(ttft_ms=200, e2e_ms=1500), rate_per_s=5.0)
    levels = [
        Level(f"{rate} req/s", rate, [report(ttft_ms=rate**2 / by, settings=settings) for by in (38, 40)])
        for rate in range(10, 130, 10)
    ]
    found = {"within_per_s": 83.2, "limits": {"p99_ttft_ms": 200}}
    return loadtest_page(Study("capacity", levels, "83.2 requests per second are within the limits.", found).as_json())


def load_mixes(folder: Path) -> str:
    return loadtest_page(Study("run", [Level(name, 8.0, [report()]) for name in ("base", LONG)], "Done.").as_json())


PAGES: dict[str, tuple[Callable[[Path], str], int]] = {
    "costs": (costs, 3),
    "decision": (decision, 4),
    "loadtest-run": (load_run, 2),
    "loadtest-sweep": (load_sweep, 4),
    "loadtest-capacity": (load_capacity, 4),
    "loadtest-mixes": (load_mixes, 3),
}
"""By name: how to make the page in a folder, and how many charts it has."""
