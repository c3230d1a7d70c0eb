"""Whose cost is what: idle days, the gateway's own work and refusals, and bills that stay as they were."""

from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine

from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.costs.context import UNUSED
from gateway.costs.document import CostDocument
from gateway.costs.evidence import EvidenceKind
from gateway.costs.inputs import CostQuery
from gateway.costs.plan import PLAN_FILE, IdlePolicy
from gateway.costs.report import CostReports
from gateway.metering import OWN_KEY, OWN_LABEL, SHADOW_KEY
from gateway.money import NANO
from tests.gateway.costs.cost_reports import database as database
from tests.gateway.costs.cost_reports import parts_of, reports_of, run_of
from tests.gateway.costs.ledger_rows import row, write_rows

TODAY = now_us() // DAY_US * DAY_US
SINCE = TODAY - 20 * DAY_US
PLAN = '[[adapter]]\nname = "support"\ntraining_usd = 600\ntrained_on = 2020-01-01\nlife_days = 9000\n'
WEIGHTS = {
    "prompt_ps": 20_000_000,
    "cached_ps": 1_000_000,
    "output_ps": 900_000_000,
    "error_share": 0.04,
    "r_squared": 0.99,
    "batches": 16,
    "concurrency": 8,
    "model": "base",
    "chars_per_token": 3.0,
}


def models_of(document: CostDocument) -> int:
    return sum(level.cost_nano_usd or 0 for level in document.levels if level.name != "(all)")


def all_of(document: CostDocument) -> int:
    return next(level.cost_nano_usd or 0 for level in document.levels if level.name == "(all)")


def engines_of(document: CostDocument) -> int:
    return sum(engine.bill_nano_usd or 0 for engine in document.engines)


def asked_on(days: range, adapter: str | None, **tokens: int) -> list[dict[str, Any]]:
    return [
        row(f"{adapter}-{day}-{n}", SINCE + day * DAY_US + n * HOUR_US, 600 * 10**6, adapter=adapter, **tokens)  # type: ignore[arg-type]
        for day in days
        for n in range(10)
    ]


def test_days_without_requests_are_part_of_every_models_cost_and_of_payback(database: Engine, tmp_path: Path) -> None:
    """Fifteen days with requests and five without: who pays back in time without the five never does with them."""
    run_of(database, SINCE, TODAY, Decimal("0.7"))
    tokens = {"prompt_tokens": 300_000, "completion_tokens": 100_000}
    write_rows(database, asked_on(range(15), "support", **tokens))
    reports = reports_of(database, tmp_path)
    (tmp_path / PLAN_FILE).write_text(PLAN)
    terra = ("openai:gpt-6.1-terra",)
    whole = reports.document(CostQuery(SINCE, TODAY, vs=terra))
    assert engines_of(whole) == all_of(whole) == models_of(whole) == 20 * 24 * 700_000_000
    (support,) = [level for level in whole.levels if level.name == "support"]
    assert support.realised_nano_usd == whole.levels[0].realised_nano_usd
    elsewhere = sum(line.elsewhere_nano_usd[terra[0]] or 0 for line in whole.data)
    assert whole.payback[0].saving_nano_usd_per_day == round((elsewhere - engines_of(whole)) / 20)
    # Were the price of an hour such that fifteen days cost less than elsewhere and twenty cost more, it never pays.
    between = Decimal(elsewhere) / NANO / (17 * 24)
    found = reports.document(CostQuery(SINCE, TODAY, vs=terra, usd_per_hour=between)).payback[0]
    assert (found.days, found.reason.startswith("never")) == (None, True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("idle", list(IdlePolicy))
def test_allocated_idle_and_overhead_are_the_bill_and_so_are_the_models(
    database: Engine, tmp_path: Path, seed: int, idle: IdlePolicy
) -> None:
    choose, rows = Random(seed), []
    for number in range(60):
        key = choose.choice(["k1", "k2", OWN_KEY, SHADOW_KEY]) if seed else OWN_KEY
        whose = {"key_id": key, "tenant": key, "adapter": choose.choice([None, "a", "b"]) if key != SHADOW_KEY else "a"}
        at = SINCE + choose.choice([0, 1, 4]) * DAY_US + choose.randrange(DAY_US - HOUR_US)
        finish = choose.choice(["completed", "refused", "client_abort"])
        used = {"prompt_tokens": choose.randrange(1, 9_000), "completion_tokens": choose.randrange(500)}
        rows.append(row(number, at, choose.randrange(1, 10**9), finish=finish, **whose, **used))
    write_rows(database, rows)
    run_of(database, SINCE, SINCE + 6 * DAY_US, Decimal("1.23456789"))
    reports = reports_of(database, tmp_path)
    (tmp_path / PLAN_FILE).write_text(PLAN + '[[storage]]\nname = "disk"\nusd_per_month = 40\n')
    for made_us in (SINCE + DAY_US // 2, SINCE + DAY_US + 12_345_678):  # weights change within days
        reports.store.add(EvidenceKind.WEIGHTS, WEIGHTS, made_us)
    document = reports.document(CostQuery(SINCE, SINCE + 6 * DAY_US, ("adapter", "tenant", "day"), vs=(), idle=idle))
    assert parts_of(document) == document.bill_nano_usd
    by_model = reports.document(CostQuery(SINCE, SINCE + 6 * DAY_US, vs=(), idle=idle))
    assert models_of(by_model) == all_of(by_model) == engines_of(by_model)
    assert (UNUSED in {level.name for level in by_model.levels}) == (seed == 0)  # no requests at all
    assert not any(line.model and line.model.startswith((OWN_LABEL, "a (shadow)")) for line in by_model.data)


def test_own_probes_shadow_and_refused_requests_are_no_requests_of_clients(database: Engine, tmp_path: Path) -> None:
    day = {"prompt_tokens": 1000, "completion_tokens": 100}
    clients = [row(n, SINCE + n * HOUR_US, HOUR_US // 2, adapter="a" if n % 2 else None, **day) for n in range(8)]
    write_rows(database, clients)
    run_of(database, SINCE, SINCE + DAY_US, Decimal(1))
    reports = reports_of(database, tmp_path)
    asked = CostQuery(SINCE, SINCE + DAY_US, idle=IdlePolicy.EVEN)
    alone = reports.document(asked)
    others = [
        row(100 + n, SINCE + 9 * HOUR_US + n * 10**6, key_id=OWN_KEY, tenant=OWN_KEY, adapter="a", **day)
        for n in range(254)
    ]
    others += [
        row(400 + n, SINCE + 11 * HOUR_US + n * 10**6, key_id=SHADOW_KEY, tenant=SHADOW_KEY, adapter="a", **day)
        for n in range(30)
    ]
    refused = {"finish": "refused", "status": 400, "engine": None}
    others += [row(500 + n, SINCE + 12 * HOUR_US + n * 10**6, 1000, **refused) for n in range(20)]
    write_rows(database, others)
    document = reports.document(asked)
    assert [(line.model, line.requests, line.unanswered) for line in document.data] == [("a", 4, 0), ("base", 4, 20)]
    assert document.levels[0].realised_nano_usd == alone.levels[0].realised_nano_usd == 24 * NANO * 1000 // 8
    for before, after in zip(alone.comparators, document.comparators, strict=True):
        assert (before.variants, before.per_request) == (after.variants, after.per_request)
    own = {one.name: one for one in document.overhead if one.kind == "own work"}
    assert own.keys() == {OWN_LABEL, "a (shadow)"}
    assert all(one.nano_usd > 0 for one in own.values())
    assert parts_of(document) == document.bill_nano_usd == 24 * NANO
    idle = {line.model: line.idle_share_nano_usd for line in document.data}
    assert idle["a"] == pytest.approx(idle["base"], abs=1)  # even: two models carry it, and no other line


def test_a_bill_of_the_past_is_the_same_before_and_after_calibrating(database: Engine, tmp_path: Path) -> None:
    run_of(database, SINCE, TODAY, Decimal("0.7"))
    write_rows(
        database,
        asked_on(range(20), "support", prompt_tokens=300, completion_tokens=10)
        + asked_on(range(20), None, prompt_tokens=10, completion_tokens=300),
    )
    reports = reports_of(database, tmp_path)
    measured = SINCE + 10 * DAY_US + 5 * HOUR_US + 12_345
    closed, open_since = CostQuery(SINCE, measured, ("adapter", "tenant")), CostQuery(measured, TODAY)
    before, later_before = reports.document(closed), reports.document(open_since)
    reports.store.add(EvidenceKind.WEIGHTS, WEIGHTS, measured)
    assert reports.document(closed) == before
    later = reports.document(open_since)
    assert later.weights.startswith("measured on ")
    assert later.data[0].cost_nano_usd != later_before.data[0].cost_nano_usd
    both = reports.document(CostQuery(SINCE, TODAY))
    assert parts_of(both) == both.bill_nano_usd
    assert "; before 20" in both.weights
    assert both.weights.endswith("`turntable costs calibrate` measures")
    for line, first, second in zip(both.data, before.data, later.data, strict=True):
        assert abs((line.cost_nano_usd or 0) - (first.cost_nano_usd or 0) - (second.cost_nano_usd or 0)) <= 2


def test_a_calibration_changes_no_bill_that_ended_before_it_in_this_very_hour(reports: CostReports) -> None:
    question = CostQuery(until_us=now_us())
    before = reports.document(question)
    reports.store.add(EvidenceKind.WEIGHTS, WEIGHTS)
    assert reports.document(question) == before


@pytest.fixture
def reports(database: Engine, tmp_path: Path) -> CostReports:
    """An hour up to now, with two models at work."""
    begin = now_us() - HOUR_US
    run_of(database, begin, now_us(), Decimal("0.7"))
    used = [{"prompt_tokens": 300, "completion_tokens": 10}, {"prompt_tokens": 10, "completion_tokens": 300}]
    rows = [row(n, begin + n * 60 * 10**6, adapter="a" if n % 2 else None, **used[n % 2]) for n in range(50)]
    write_rows(database, rows)
    return reports_of(database, tmp_path)
