"""What a tenant sees of costs: its own lines, and no figure or parameter that tells of the work of others."""

from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.costs.inputs import CostQuery
from gateway.costs.plan import PLAN_FILE
from gateway.costs.report import tenant_query
from tests.gateway.conftest import Attached
from tests.gateway.costs.cost_reports import database as database
from tests.gateway.costs.cost_reports import reports_of, run_of
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.quota.conftest import new_key

DAY = now_us() // DAY_US * DAY_US - DAY_US


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("idle=proportional", "idle"),
        ("usd_per_hour=1", "usd_per_hour"),
        ("idle=own_line&usd_per_hour=1", "idle"),
        ("group_by=engine", "group_by"),
    ],
)
def test_a_tenant_may_not_ask_what_would_tell_how_busy_the_engines_are(
    attached: Attached, query: str, param: str
) -> None:
    key = new_key(attached, tenant="acme", scopes=["usage"])
    refused = attached.http.get(f"/admin/v1/costs?{query}", headers=key.headers)
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert refused.json()["error"]["param"] == param
    assert "takes an admin key" in refused.json()["error"]["message"]
    assert attached.http.get(f"/admin/v1/costs?{query}").is_success


def test_a_tenants_line_tells_its_cost_and_not_how_much_of_it_is_idle_time(database: Engine, tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_text('idle = "proportional"\n')
    run_of(database, DAY, DAY + DAY_US, Decimal(1))
    write_rows(
        database, [row(n, DAY + n * HOUR_US, tenant=t, prompt_tokens=10) for n, t in enumerate(["acme", "rival"])]
    )
    reports = reports_of(database, tmp_path)
    document = reports.tenant_document(CostQuery(DAY, DAY + DAY_US), "acme")
    (line,) = document.data
    assert line.tenant == "acme"
    assert line.cost_nano_usd == pytest.approx(12 * 10**9, abs=1)
    assert (line.active_nano_usd, line.idle_share_nano_usd, document.booked_nano_usd) == (None, None, None)
    assert "rival" not in document.model_dump_json()


def test_a_tenant_sees_whole_days_so_that_no_moment_tells_who_else_was_there() -> None:
    asked = tenant_query(CostQuery(DAY + 7 * HOUR_US, DAY + 7 * HOUR_US + 1))
    assert (asked.since_us, asked.until_us) == (DAY, DAY + DAY_US)
    assert asked.group_by == ("tenant", "adapter")
