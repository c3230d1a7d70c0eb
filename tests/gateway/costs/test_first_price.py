"""Money from the first request on: a price per hour is enough for budgets, and the pace is measured on live traffic."""

import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from gateway.cli.keys import app as keys_app
from gateway.cli.tenants import app as tenants_app
from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.core import Usage
from gateway.costs.refresh import CostGauges, CostRefresher
from gateway.costs.request_price import ASSUMED_WEIGHTS, RequestPrices
from gateway.metrics import Metrics
from gateway.settings import Settings
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.costs.cost_reports import database as database
from tests.gateway.costs.cost_reports import reports_of, run_of
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.quota.conftest import new_key
from tests.waiting import wait_until

ASKED = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
TOLD = {"x-turntable-cost": "1"}


@pytest.fixture(scope="module")
def engine() -> Iterator[MockServer]:
    with serving(MockSettings(tokens=4, itl_ms=5)) as running:
        yield running


def cost_of(data_dir: Path, request_id: str) -> int:
    """What the ledger says that a request cost, once it does."""

    def settled() -> tuple[int | None] | None:
        with sqlite3.connect(data_dir / "turntable.db") as ledger:
            query = "SELECT cost_nano_usd FROM usage_ledger WHERE request_id = ? AND settled_us IS NOT NULL"
            row: tuple[int | None] | None = ledger.execute(query, (request_id,)).fetchone()
            return row

    wait_until(settled, 10)
    return int((settled() or (None,))[0] or 0)


def price_of(gateway: Attached) -> dict[str, Any]:
    document: dict[str, Any] = gateway.http.get("/admin/v1/costs/price").json()
    return document


def is_recent(gateway: Attached) -> bool:
    return bool(price_of(gateway)["basis"] == "recent")


def test_the_first_request_of_a_fresh_gateway_may_be_one_with_a_budget(engine: MockServer, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, engine_usd_per_hour=Decimal("3.6"))
    for _ in ("fresh", "started again"):
        with running_gateway(settings, engine.url) as url:
            wait_until_ready(url)
            gateway = Attached(url, engine, tmp_path)
            key = new_key(gateway, budgets=[{"usd": "5", "period": "month"}])
            first = key.post("/v1/chat/completions", ASKED)
            assert first.status_code == httpx.codes.OK, first.text
            assert cost_of(tmp_path, first.headers["x-request-id"]) > 0
            wait_until(partial(is_recent, gateway))  # from that request
            after = key.post("/v1/chat/completions", ASKED)
            assert cost_of(tmp_path, after.headers["x-request-id"]) > 0
            gateway.http.close()


def refresher_of(database: Engine, data_dir: Path, stated: int | None) -> tuple[CostRefresher, RequestPrices]:
    prices = RequestPrices()
    return CostRefresher(reports_of(database, data_dir), CostGauges(Metrics().registry), prices, lambda: stated), prices


def test_before_any_traffic_work_costs_what_a_slow_engine_would_take(database: Engine, tmp_path: Path) -> None:
    refresher, prices = refresher_of(database, tmp_path, 3_600 * 10**9)  # a dollar per second
    refresher.begin()
    assumed = prices.price.cost_nano_usd(Usage(100, 10))
    assert assumed == (100 * ASSUMED_WEIGHTS.prompt + 10 * ASSUMED_WEIGHTS.output) // 1000
    refresher.refresh()
    assert (prices.price.basis, prices.price.cost_nano_usd(Usage(100, 10))) == ("assumed", assumed)


def test_at_midnight_the_pace_measured_the_day_before_stays_in_force(database: Engine, tmp_path: Path) -> None:
    evening = now_us() // DAY_US * DAY_US - HOUR_US
    run_of(database, evening, evening + HOUR_US, Decimal("3.6"))
    write_rows(database, [row(1, evening, 10 * 10**6, prompt_tokens=100, completion_tokens=10)])
    refresher, prices = refresher_of(database, tmp_path, 36 * 10**8)
    refresher.begin()
    refresher.refresh()
    assert (prices.price.basis, prices.price.cost_nano_usd(Usage(100, 10))) == ("recent", 10 * 10**6)


def test_setting_a_budget_without_a_price_per_hour_prints_a_warning(attached: Attached) -> None:
    environment = {"TURNTABLE_ADMIN_KEY": KEY, "TURNTABLE_GATEWAY_URL": attached.url}
    for app, arguments in (
        (keys_app, ["create", "app", "--budget", "5/month"]),
        (tenants_app, ["set", "budgeted", "--budget", "5/month"]),
    ):
        told = CliRunner().invoke(app, arguments, env=environment)
        assert told.exit_code == 0, told.output
        assert "--engine-usd-per-hour" in told.stderr
    quiet = CliRunner().invoke(keys_app, ["create", "app"], env=environment)
    assert "--engine-usd-per-hour" not in quiet.stderr
