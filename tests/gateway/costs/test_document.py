"""The cost document through a running gateway: one truth for tables, JSON, CSV, page and gauges; nothing guessed."""

import csv
import io
import re
from collections import Counter
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from gateway.cli.costs import app as costs_app
from gateway.clock import DAY_US, HOUR_US, now_us
from gateway.core import Usage
from gateway.costs.document import CostDocument
from gateway.costs.evidence import EvidenceKind
from gateway.costs.inputs import CostQuery
from gateway.costs.page import html_page
from gateway.costs.plan import PLAN_FILE, PlanError, read_plan, read_presets
from gateway.costs.prices.book import SNAPSHOT_FILE
from gateway.costs.refresh import CostGauges, CostRefresher
from gateway.costs.report import CostReports
from gateway.costs.request_price import RequestPrices
from gateway.costs.terminal import shown
from gateway.errors import InvalidRequestError
from gateway.metering.engine_uptime import EngineRuns
from gateway.metering.usage_summary import UsageSummary
from gateway.metrics import Metrics
from gateway.money import NANO, usd_text
from tests.gateway.conftest import KEY, Attached
from tests.gateway.costs.cost_reports import CAPACITY, NOW, SINCE, parts_of, reports_of, run_of
from tests.gateway.costs.cost_reports import database as database
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.costs.price_files import SNAPSHOT
from tests.waiting import wait_until


@pytest.fixture
def reports(database: Engine, tmp_path: Path) -> CostReports:
    """An H100 for two hours, with 200 requests of the worked example on it."""
    run_of(database, SINCE, NOW, Decimal("2.69"))
    tokens = {"prompt_tokens": 1024, "completion_tokens": 128}
    rows = [
        row(number, SINCE + number * 20 * 10**6, adapter="support" if number % 4 else None, **tokens)
        for number in range(200)
    ]
    write_rows(database, rows)
    return reports_of(database, tmp_path)


@pytest.mark.parametrize("group_by", ["adapter", "tenant,key", "day,engine", "adapter,tenant,day", ""])
@pytest.mark.parametrize("idle", ["own_line", "even"])
def test_the_lines_of_every_grouping_add_up_to_the_bill(reports: CostReports, group_by: str, idle: Any) -> None:
    columns = tuple(column for column in group_by.split(",") if column)
    document = reports.document(CostQuery(SINCE, NOW, columns, idle=idle))
    assert parts_of(document) == document.bill_nano_usd == 5_380_000_000
    assert sum(line.requests for line in document.data) == 200
    elsewhere = [sum(line.elsewhere_nano_usd["openai:gpt-6.1-terra"] or 0 for line in document.data)]
    assert elsewhere == [200 * 1_664_000]


def test_one_document_reads_runs_and_window_once(reports: CostReports, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return method(*arguments)

        monkeypatch.setattr(owner, name, call)

    counted(EngineRuns, "list")
    counted(UsageSummary, "first_us")
    counted(UsageSummary, "window")
    assert reports.document(CostQuery(SINCE, NOW)).bill_nano_usd
    assert calls == {"list": 1, "first_us": 1, "window": 1}


def test_the_three_numbers_and_the_utilisation_tax(reports: CostReports) -> None:
    before = reports.document(CostQuery(SINCE, NOW)).levels[0]
    assert (before.floor_nano_usd, before.slo_nano_usd, before.utilisation_tax_nano_usd) == (None, None, None)
    reports.store.add(EvidenceKind.CAPACITY, CAPACITY)
    document = reports.document(CostQuery(SINCE, NOW))
    for level in document.levels:  # all requests are alike, and like those of the load test
        assert level.slo_nano_usd is not None
        assert f"{level.slo_nano_usd / NANO:.4f}" == "0.0317"
        assert level.floor_nano_usd == round(Decimal("2.69") / 3600 / 40 * 1000 * NANO)
        assert level.realised_nano_usd == pytest.approx(26_900_000_000, rel=1e-6)
        assert level.utilisation_tax_nano_usd == (level.realised_nano_usd or 0) - level.floor_nano_usd
    (terra,) = [one for one in document.comparators if one.name == "openai:gpt-6.1-terra"]
    assert terra.break_even is not None
    assert round(terra.break_even.requests_per_day or 0, -3) == 39_000
    assert f"{terra.break_even.share_of_capacity:.1%}" == "1.9%"


def test_comparators_give_ranges_and_variants_and_say_what_is_not_known(reports: CostReports) -> None:
    document = reports.document(CostQuery(SINCE, NOW, vs=("anthropic:claude-sonnet-5-5", "deepseek:deepseek-flash")))
    sonnet, flash = document.comparators
    totals = {name: part.total for name, part in sonnet.variants.items()}
    standard, cached, reasoning, batch = (totals[name] for name in ("standard", "cached", "reasoning", "batch"))
    assert standard is not None
    assert standard.low < standard.typical < standard.high
    assert standard.typical == 200 * 4_326_400  # 1.3 times as many tokens
    assert cached == standard  # nothing was cached here
    assert reasoning is not None
    assert reasoning.high > 3 * standard.high
    assert batch is not None
    assert batch.typical * 2 == standard.typical
    assert flash.variants["batch"].total is None
    assert "no batch price" in str(flash.variants["batch"].unpriced)
    assert sonnet.per_thousand_chars is None  # lengths of texts are not recorded
    assert sonnet.per_request is not None
    assert sonnet.per_request.typical == 4_326_400


def test_measured_weights_price_work_and_text(reports: CostReports) -> None:
    weights = {"prompt_ps": 20_000_000, "cached_ps": 1_000_000, "output_ps": 300_000_000, "error_share": 0.04}
    fact = weights | {"r_squared": 0.99, "batches": 16, "concurrency": 8, "model": "base", "chars_per_token": 3.9}
    reports.store.add(EvidenceKind.WEIGHTS, fact, SINCE - 1)
    document = reports.document(CostQuery(SINCE, NOW))
    assert document.weights.startswith("measured on ")
    seconds = (1024 * 20 + 128 * 300) / 1e6
    assert document.levels[0].floor_nano_usd == round(2.69 / 3600 * seconds * 1000 * NANO)
    (terra,) = [one for one in document.comparators if one.name == "openai:gpt-6.1-terra"]
    assert terra.per_thousand_chars is not None
    assert terra.per_thousand_chars.typical == round(1_664_000 / (1152 * 3.9) * 1000)


def test_a_question_what_if_prices_every_engine_anew(reports: CostReports) -> None:
    document = reports.document(CostQuery(SINCE, NOW, usd_per_hour=Decimal(10)))
    assert document.bill_nano_usd == 20 * NANO
    assert document.notes[0].startswith("What if: every engine at $10")


def test_an_engine_without_a_price_is_explained(database: Engine, reports: CostReports, tmp_path: Path) -> None:
    run_of(database, NOW - HOUR_US, NOW, None, "engine-1")
    document = reports.document(CostQuery(SINCE, NOW))
    assert document.bill_nano_usd is None
    assert {line.cost_nano_usd for line in document.data} == {None}
    assert any("engine-1 was up 1.00 h without a stated price" in note for note in document.notes)
    (tmp_path / PLAN_FILE).write_text('[[engine]]\nname = "engine-1"\nusd_per_hour = 3\nsince = 2026-01-01\n')
    assert reports.document(CostQuery(SINCE, NOW)).bill_nano_usd == 5_380_000_000 + 3 * NANO


def test_a_window_without_traffic_is_idle_and_one_before_everything_is_empty(reports: CostReports) -> None:
    quiet = reports.document(CostQuery(NOW - HOUR_US // 2, NOW))
    assert (quiet.data, quiet.idle_nano_usd) == ([], 1_345_000_000)
    assert "There were no requests in this window." in quiet.notes
    before = reports.document(CostQuery(SINCE - 2 * DAY_US, SINCE - DAY_US))
    assert (before.bill_nano_usd, before.data) == (None, [])
    assert any("No engine" in note for note in before.notes)


def test_a_comparator_that_left_the_price_data_is_named_and_not_guessed(reports: CostReports, tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT_FILE).write_text(SNAPSHOT)
    document = reports.document(CostQuery(SINCE, NOW))
    assert {one.unpriced is not None for one in document.comparators} == {True}
    assert {amount for line in document.data for amount in line.elsewhere_nano_usd.values()} == {None}
    assert "unpriced" in html_page(document)
    with pytest.raises(InvalidRequestError, match="unpriced"):
        reports.document(CostQuery(SINCE, NOW, vs=("openai:gpt-6.1-terra",)))


def test_payback_of_a_fine_tune_and_overhead_lines(reports: CostReports, tmp_path: Path) -> None:
    plan = '[[adapter]]\nname = "{}"\ntraining_usd = 0.5\npeople_usd = 0.5\ntrained_on = 2020-01-01\nlife_days = 9000\n'
    (tmp_path / PLAN_FILE).write_text(plan.format("support") + plan.format("unused"))
    document = reports.document(CostQuery(SINCE, NOW, vs=("anthropic:claude-fable-5-1", "openai:gpt-6-luna")))
    assert parts_of(document) == document.bill_nano_usd
    found = {(one.adapter, one.comparator): one for one in document.payback}
    never = found["support", "openai:gpt-6-luna"]
    assert (never.days, never.reason.startswith("never")) == (None, True)
    assert "no requests" in found["unused", "openai:gpt-6-luna"].reason
    cheap = reports.document(CostQuery(SINCE, NOW, vs=("anthropic:claude-fable-5-1",), usd_per_hour=Decimal("0.01")))
    assert cheap.payback[0].saving_nano_usd_per_day is not None
    assert cheap.payback[0].days == pytest.approx(NANO / cheap.payback[0].saving_nano_usd_per_day, abs=0.06)


def test_what_a_right_answer_costs(reports: CostReports) -> None:
    score = {"requests": 100, "prompt_tokens": 102_400, "completion_tokens": 12_800}
    models = {
        "base": score | {"rates": {"correct": {"hits": 0, "of": 100}}},
        "support": score | {"rates": {"correct": {"hits": 80, "of": 100}}},
    }
    reports.store.add(EvidenceKind.QUALITY, {"task": "triage", "models": models})
    base, support, *elsewhere = reports.document(CostQuery(SINCE, NOW)).quality
    assert (base.per_right_nano_usd, base.note.startswith("never right")) == (None, True)
    assert support.per_request_nano_usd == 26_900_000  # $5.38 for 200 such requests
    assert support.per_right_nano_usd == round(26_900_000 / 0.8)
    assert {one.note.startswith("not evaluated here") for one in elsewhere} == {True}
    assert elsewhere[0].per_right_nano_usd == 1_664_000


def test_a_right_answer_whose_prompt_was_cached_costs_what_cached_prompts_do(reports: CostReports) -> None:
    """Shots before every question make prompts ten times as long; the engine keeps them, and so they cost little."""
    rates = {"rates": {"correct": {"hits": 80, "of": 100}}}
    plain = {"requests": 100, "prompt_tokens": 10_000, "completion_tokens": 2_000}
    shots = plain | {"prompt_tokens": 100_000, "cached_tokens": 90_000}
    reports.store.add(
        EvidenceKind.QUALITY, {"task": "triage", "models": {"base": plain | rates, "prompted": shots | rates}}
    )
    base, prompted, *_ = reports.document(CostQuery(SINCE, NOW)).quality
    ratio = (10_000 * 10 + 90_000 * 1 + 2_000 * 40) / (10_000 * 10 + 2_000 * 40)
    assert base.per_request_nano_usd
    assert (prompted.per_request_nano_usd or 0) / base.per_request_nano_usd == pytest.approx(ratio, rel=1e-6)


def test_a_cache_elsewhere_has_to_be_written_before_it_is_read(database: Engine, tmp_path: Path) -> None:
    run_of(database, SINCE, NOW, Decimal("2.69"))
    write_rows(database, [row(1, SINCE, prompt_tokens=1024, cached_tokens=512, completion_tokens=128)])
    document = reports_of(database, tmp_path).document(
        CostQuery(SINCE, NOW, vs=("anthropic:claude-sonnet-5-5", "google:gemini-3.8-flash"))
    )
    sonnet, flash = (one.variants["cached"].total for one in document.comparators)
    # $2, cached $0.10, written $2.50, output $10 per million: 1.3 times as many tokens, up to 1.35.
    assert sonnet is not None
    assert sonnet.typical == round(1.3 * (512 * 100 + 512 * 2500 + 128 * 10_000))
    assert sonnet.low == 512 * 100 + 512 * 2000 + 128 * 10_000  # nothing is written
    assert flash is not None
    assert flash.typical == 512 * 75 + 512 * 750 + 128 * 3750  # writing has no price of its own
    page = html_page(document)
    assert "an upper bound" in page
    assert "Minimum cacheable lengths" in page


def test_a_comparator_priced_by_another_entry_says_so_everywhere(reports: CostReports) -> None:
    name, entry = "anthropic:claude-sonnet-4-2025-05-14", "anthropic:claude-sonnet-4-0"
    document = reports.document(CostQuery(SINCE, NOW, vs=(name,)))
    assert document.comparators[0].entry == entry
    assert f"Priced as {entry}" in html_page(document)
    assert f"{name} is priced as {entry}, the nearest name in the price data." in list(shown(document))


def test_more_than_the_measured_capacity_allows_is_no_negative_tax(reports: CostReports) -> None:
    reports.store.add(EvidenceKind.CAPACITY, CAPACITY | {"slo_per_s": 0.001, "saturated_per_s": 0.001})
    document = reports.document(CostQuery(SINCE, NOW))
    assert {level.utilisation_tax_nano_usd for level in document.levels} == {None}
    assert any("not the capacity of this engine" in note for note in document.notes)


def test_what_requests_were_booked_with_stands_beside_the_bill(database: Engine, tmp_path: Path) -> None:
    run_of(database, SINCE, NOW, Decimal("2.69"))
    booked = [row(n, SINCE + n * 10**6, prompt_tokens=10, cost_nano_usd=1_000_000_000) for n in range(3)]
    own = row(9, SINCE + 10**7, prompt_tokens=10, cost_nano_usd=7, key_id="turntable", tenant="turntable")
    write_rows(database, [*booked, own])
    document = reports_of(database, tmp_path).document(CostQuery(SINCE, NOW))
    assert document.booked_nano_usd == 3 * NANO
    assert any("Requests were booked with $3.00 as they ended" in str(part) for part in shown(document))


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (None, "unpriced"),
        (0, "$0.000000"),
        (13_000, "$0.000013"),
        (-1_000_000_000, "-$1.00"),
        (1_184_693_613_000, "$1,184.69"),
        (-20_678_670_000, "-$20.68"),
    ],
)
def test_money_for_people_has_as_many_decimals_as_make_sense(nano_usd: int | None, text: str) -> None:
    assert usd_text(nano_usd) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[engine]]\nusd_per_hour = -1\n", "engine.1.usd_per_hour"),
        ("[[engine]]\nusd_per_hour = 2690000\n", "engine.1.usd_per_hour"),
        ("[[engine]]\ncount = 2\n", "it has no price"),
        ('[[engine]]\nhardware = "abacus"\n', "no hardware is called 'abacus'"),
        ("[[engine]]\nusd_per_hour = 1\n[engine.owned]\npurchase_usd = 1\nyears = 1\n", "two prices"),
        ('[[adapter]]\nname = "a"\n', "adapter.1.trained_on"),
        ("colour = 1\n", "colour"),
        ("[engine\n", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_plan_is_named(reports: CostReports, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(PlanError, match=words):
        reports.document(CostQuery(SINCE, NOW))


def test_engines_have_presets_owned_prices_power_and_carbon(reports: CostReports, tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_text(
        '[[engine]]\nname = "engine-0"\ncount = 2\nusd_per_kwh = 0.1\nkw = 0.5\ng_co2_per_kwh = 400\n'
        "[engine.owned]\npurchase_usd = 26298\nyears = 3\n"
    )
    (engine,) = reports.document(CostQuery(SINCE, NOW)).engines
    assert engine.energy_kwh == pytest.approx(2.0)
    assert engine.carbon_g == pytest.approx(800.0)
    plan, presets = read_plan(tmp_path), read_presets()
    assert plan.nano_usd_per_hour("engine-0", presets) == 2 * (NANO + 50_000_000)  # $1 and half a kWh, twice
    assert plan.nano_usd_per_hour("engine-1", presets) is None


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(reports: CostReports) -> None:
    reports.store.add(EvidenceKind.CAPACITY, CAPACITY)
    page = html_page(reports.document(CostQuery(SINCE, NOW)))
    parser = _Cells()
    parser.feed(page)
    assert (parser.open, parser.outside, "<script" in page) == ([], [], False)
    assert page.count("<svg") == 3
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", page.lower())


def test_gauges_show_today_as_the_document_does(database: Engine, tmp_path: Path) -> None:
    run_of(database, now_us() - 10**6, now_us(), Decimal("2.69"))
    write_rows(database, [row(1, now_us() - 10**6, 10**5, prompt_tokens=100, completion_tokens=10)])
    reports, metrics, prices = reports_of(database, tmp_path), Metrics(), RequestPrices()
    CostRefresher(reports, CostGauges(metrics.registry), prices, lambda: None).refresh()
    shown = dict(re.findall(r"(?m)^(turntable_cost_\S+) (\S+)$", metrics.render().decode()))
    begin, end = (round(float(shown[f"turntable_cost_window_{name}_seconds"]) * 1e6) for name in ("start", "end"))
    document = reports.document(CostQuery(begin, end))
    assert document.bill_nano_usd is not None
    assert float(shown["turntable_cost_bill_usd"]) * NANO == pytest.approx(document.bill_nano_usd)
    (line,) = document.data
    assert float(shown['turntable_cost_model_usd{model="base"}']) * NANO == pytest.approx(line.cost_nano_usd)
    cost = prices.price.cost_nano_usd(Usage(100, 10))  # the only request took all of the busy time
    assert (prices.price.basis, cost) == ("recent", line.active_nano_usd)


def test_json_csv_table_and_page_of_one_window_agree(attached: Attached, tmp_path: Path) -> None:
    assert attached.chat().is_success
    # Until the first heartbeats have been written.
    wait_until(lambda: attached.http.get("/admin/v1/costs").json()["engine_up_s"])
    seen = attached.http.get("/admin/v1/costs").json()
    until = seen["window"]["until"]
    page = tmp_path / "costs.html"
    where = ["--until", until, "--gateway", attached.url, "--usd-per-hour", "2.69"]
    environment = {"TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "250"}

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(costs_app, [*where, *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.output

    document = CostDocument.model_validate(orjson.loads(command("--json")))
    assert document.bill_nano_usd is not None
    assert parts_of(document) == document.bill_nano_usd
    table = command("--html", str(page))
    rows = list(csv.DictReader(io.StringIO(command("--csv"))))
    lines = [line.cost_nano_usd for line in document.data]
    assert [int(one["cost_nano_usd"]) for one in rows if one["line"] == "usage"] == lines
    assert [int(one["cost_nano_usd"]) for one in rows if one["line"] == "bill"] == [document.bill_nano_usd]
    for amount in [*lines, document.idle_nano_usd, document.bill_nano_usd]:
        assert usd_text(amount) in table
        assert usd_text(amount) in page.read_text()


def test_a_response_states_its_cost_on_request(attached: Attached) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    asked = attached.http.post("/v1/chat/completions", json=body, headers={"x-turntable-cost": "1"})
    assert asked.headers["x-turntable-cost-basis"] == "unpriced"  # no price per hour is set
    assert "x-turntable-cost-usd" not in asked.headers
    assert "x-turntable-cost-basis" not in attached.chat().headers


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("since=yesterday", "not an ISO 8601 time"),
        ("since=2026-01-02&until=2026-01-01", "ends before it begins"),
        ("group_by=colour", "Cannot group by 'colour'"),
        ("idle=never", "no idle policy 'never'"),
        ("usd_per_hour=-1", "no price per hour"),
        ("usd_per_hour=nan", "no price per hour"),
        ("usd_per_hour=2690000", "more than $10,000 per hour"),
        ("vs=gpt-5", "`turntable prices list gpt-5` shows what is known"),
        ("vs=openai:gone", "unpriced"),
    ],
)
def test_bad_questions_get_one_sentence(attached: Attached, query: str, words: str) -> None:
    response = attached.http.get(f"/admin/v1/costs?{query}")
    assert response.status_code == httpx.codes.BAD_REQUEST
    assert words in response.json()["error"]["message"]


def test_the_price_of_work_of_other_days_holds_until_there_is_work_today(database: Engine, tmp_path: Path) -> None:
    noon = NOW - DAY_US
    run_of(database, noon, noon + HOUR_US, None)  # an hour without a price tells nothing
    run_of(database, noon + HOUR_US, noon + 2 * HOUR_US, Decimal("3.6"))
    used = {"prompt_tokens": 100, "completion_tokens": 10}
    write_rows(database, [row(1, noon + HOUR_US, HOUR_US // 2, **used)])
    reports, metrics, prices = reports_of(database, tmp_path), Metrics(), RequestPrices()
    refresher = CostRefresher(reports, CostGauges(metrics.registry), prices, lambda: None)
    refresher.refresh()
    assert prices.price.cost_nano_usd(Usage(100, 10)) == 1_800_000_000  # half an hour's worth
    run_of(database, now_us() - 10**6, now_us() + 10**9, None)
    refresher.refresh()
    assert prices.price.cost_nano_usd(Usage(100, 10)) is None
