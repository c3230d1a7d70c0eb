"""Every table shows every column and every figure whole: at 80 columns, at 60, and in a pipe."""

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gateway.cli.breakeven import _table as breakeven_table
from gateway.cli.prices import as_table, rows_of
from gateway.cli.usage import _comparison
from gateway.clock import HOUR_US
from gateway.costs.docs_tables import EXAMPLE_AT
from gateway.costs.evidence import EvidenceKind
from gateway.costs.inputs import CostQuery
from gateway.costs.plan import PLAN_FILE, IdlePolicy
from gateway.costs.prices.book import PriceBook
from gateway.costs.terminal import shown
from tests.gateway.costs.cost_reports import CAPACITY, SINCE, reports_of, run_of
from tests.gateway.costs.cost_reports import database as database
from tests.gateway.costs.ledger_rows import row, write_rows
from turntable.console import Column, Table, figures

TURNTABLE = str(Path(sys.executable).with_name("turntable"))
LONGEST = 28


def assert_whole(table: Table, width: int) -> None:
    """Every figure, and every word of the headings of columns that say something, stands unbroken in what is shown."""
    rows = [row for row in table.rows if row is not None]
    columns = [(column.heading, [row[place] for row in rows]) for place, column in enumerate(table.columns)]
    text = table.render(width)
    assert "…" not in text.replace(" … ", " ")
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    for heading, cells in columns:
        if any(cells):
            assert set(heading.split()) <= words
        for cell in cells:
            assert {word for word in cell.split() if len(word) <= LONGEST} <= words, cell


def cost_tables(database: Engine, data_dir: Path) -> list[Table]:
    """All tables of `turntable costs`, with large amounts, long names and every part of the document."""
    run_of(database, SINCE, SINCE + 2 * HOUR_US, Decimal(9_876))
    used = {"prompt_tokens": 1_234_567, "cached_tokens": 234_567, "completion_tokens": 345_678}
    names = [None, "customer-support-triage-germany", "a"]
    write_rows(
        database,
        [
            row(
                n,
                SINCE + n * 10**6,
                10**9,
                adapter=names[n % 3],
                tenant="northern-insurance",
                key_id="k3y2example",
                **used,
            )
            for n in range(300)
        ],
    )
    plan = '[[adapter]]\nname = "{}"\ntraining_usd = 12345.67\ntrained_on = 2020-01-01\nlife_days = 9000\n'
    (data_dir / PLAN_FILE).write_text(plan.format(names[1]) + plan.format("a"))
    reports = reports_of(database, data_dir)
    reports.store.add(EvidenceKind.CAPACITY, CAPACITY)
    score = {"requests": 100, "prompt_tokens": 102_400, "cached_tokens": 90_000, "completion_tokens": 12_800}
    rates = {"rates": {"correct": {"hits": 80, "of": 100}}}
    reports.store.add(
        EvidenceKind.QUALITY, {"task": "triage", "models": {"base": score | rates, str(names[1]): score | rates}}
    )
    question = CostQuery(SINCE, SINCE + 2 * HOUR_US, ("adapter", "tenant", "key", "day"), idle=IdlePolicy.EVEN)
    return [part for part in shown(reports.document(question)) if isinstance(part, Table)]


@pytest.mark.parametrize("width", [60, 80, 120, 100_000])
def test_every_table_of_the_bill_is_whole(database: Engine, tmp_path: Path, width: int) -> None:
    tables = cost_tables(database, tmp_path)
    assert len(tables) == 6
    for table in tables:
        assert_whole(table, width)


@pytest.mark.parametrize("width", [60, 80, 120, 100_000])
def test_prices_break_even_and_usage_are_whole(width: int) -> None:
    book = PriceBook.shipped()
    names = ["anthropic:claude-sonnet-5-5", "openai:gpt-6.1-terra", "deepseek:deepseek-flash"]
    prices = [one for name in names for one in rows_of(book.find(name), EXAMPLE_AT, batch=True)]
    assert_whole(as_table(prices), width)
    even = {
        "engine": "typical $2.69/h",
        "comparator": "anthropic:claude-sonnet-5-5",
        "usd_per_thousand": 678.1234,
        "requests_per_day": 1_630_123.0,
        "share_of_capacity": 12.345,
        "payback_days": 1186.6,
        "replicas": 1,
        "own_usd_per_day": 164.56,
        "elsewhere_usd_per_day": 34_567.89,
    }
    assert_whole(breakeven_table("typical $2.69/h", [even]), width)
    sums = {"ledger": 57_761_123, "engine": 57_761_123, "ratio": 1.0, "agreement": "within"}
    tokens = {"prompt_tokens": sums, "completion_tokens": sums}
    assert_whole(_comparison({"data": [{"engine": "10.0.0.7:8000", "run": "1732953845.123", "tokens": tokens}]}), width)


def test_a_table_that_fits_stays_one_and_a_record_leaves_out_what_is_empty() -> None:
    def table() -> Table:
        made = Table("name", *figures("amount"), Column("remark"))
        made.add("a", "$1,234.56", "many words that may stand on several lines")
        made.add("b", "$9", "")
        return made

    assert "─" in table().render(60)
    record = "name a amount $1,234.56 remark many words that may stand on several lines name b amount $9"
    assert table().render(20).split() == record.split()


def test_a_pipe_gets_lines_as_long_as_they_need_to_be(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [TURNTABLE, "prices", "show", "anthropic:claude-sonnet-5-5", "--data-dir", str(tmp_path)]
    shown_ = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    heading = next(line for line in shown_.splitlines() if "model" in line)
    for name in ("prompts over", "input", "cached", "cache write", "output"):
        assert name in heading
