"""Reports as files: one page without anything from elsewhere, CSV, and records that give the report again."""

import csv
import io
import re
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from importlib import metadata
from xml.etree import ElementTree

import pytest

from loadtest.collector import Snapshot
from loadtest.metrics import Slo
from loadtest.outputs import csv_text
from loadtest.page import charts_over_load, frontier, html_page
from loadtest.settings import PromotionPlan
from loadtest.study import Level, Study
from loadtest.terminal import print_report, print_study, snapshot_table
from tests.loadtest.load_reports import NASTY, SETTINGS, report, study


def svgs(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page)]


@pytest.mark.parametrize("document", [report().as_json(), study().as_json()], ids=["run", "sweep"])
def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(document: dict[str, object]) -> None:
    page = html_page(document)
    found: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    Tags().feed(page)
    assert "script" not in found
    assert "link" not in found
    assert "url(" not in page
    assert "@import" not in page
    assert "tt-secret" not in page
    assert svgs(page)


def test_the_page_of_a_sweep_has_latency_throughput_and_cost_over_load() -> None:
    page = html_page(study().as_json())
    titles = [svg.findtext("title") for svg in svgs(page)]
    assert titles == ["TTFT over load", "E2E over load", "Throughput over load", "Cost against latency"]
    assert len(charts_over_load(study().as_json()["levels"], {})) == 4, "no ITL was measured"
    assert "Done." in page


def test_the_page_of_a_run_has_a_row_per_model_and_says_when_it_is_invalid() -> None:
    page = html_page(report(cpu_share=0.99).as_json())
    assert "INVALID: client-bound" in page
    assert page.count("&lt;script&gt;alert") >= 2
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr.*?</tr>", page)]
    assert [row[:2] for row in rows if row and row[0].startswith(("base", "all", "of"))] == [
        ["base", "5"],
        ["all models", "10"],
        ["of these: cold models", "2"],
        ["of these: warm models", "8"],
    ]


def test_the_frontier_is_cost_against_latency_with_its_levels_named() -> None:
    answered, good = frontier(study().as_json()["levels"])
    assert [round(latency) for latency, _ in answered.points] == [10, 20, 40]
    assert list(answered.labels) == ["10 req/s", "20 req/s", "40 req/s"]
    assert answered.points == good.points


def test_csv_has_a_line_per_level_and_model() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(study().as_json()))))
    assert len(rows) == 3 * 3
    assert [row["model"] for row in rows[:3]] == ["total", "base", NASTY]
    assert {row["level"] for row in rows} == {"10 req/s", "20 req/s", "40 req/s"}
    assert float(rows[0]["ttft_p50_ms"]) == pytest.approx(10)
    assert float(rows[0]["usd_per_good_request"]) > 0


def test_the_live_view_shows_the_state_of_all_processes_together() -> None:
    snapshot = Snapshot.sum_of([Snapshot(2.0, 10, 6, 1, (5.0,)), Snapshot(1.9, 10, 8, 0, (15.0,))])
    (row,) = snapshot_table("run", snapshot).rows
    assert row == ("2", "20", "14", "1", "5", "7.0", "10.0", "14.9")


def test_a_report_says_what_was_asked_but_no_key() -> None:
    asked = report().as_json()["settings"]
    assert asked["concurrency"] == 8
    assert "key" not in asked
    assert replace(SETTINGS, seed=1) != SETTINGS


def test_levels_under_one_load_are_bars_under_their_names() -> None:
    mixes = Study("run", [Level(name, 8.0, [report()]) for name in ("base", "a")], "").as_json()
    (svg, *_) = svgs(charts_over_load(mixes["levels"], mixes)[0].__html__())
    assert list(svg.iter("polyline")) == []
    texts = ["".join(text.itertext()) for text in svg.iter("text")]
    assert [text for text in texts if text in ("base", "a")] == ["base", "a"]


def test_the_page_says_in_plain_words_what_was_asked() -> None:
    settings = replace(
        SETTINGS, slo=Slo(ttft_ms=200, e2e_ms=1500), promotions=PromotionPlan("base", (2, 3), 5.0, "http://x")
    )
    page = html_page(report(settings=settings).as_json())
    words = re.sub(r"<[^>]+>", " ", page)
    for nonsense in ("{'", "('", "None", "e+0", "poisson", "Poisson", "ttft_ms"):
        assert nonsense not in words
    assert "closed loop: 8 concurrent users; each waits for its answer" in words
    assert "TTFT up to 200 ms, E2E up to 1500 ms" in words
    assert "base: v2, v3 in turn, every 5 s" in words
    open_loop = html_page(report(settings=replace(SETTINGS, rate_per_s=4.0)).as_json())
    assert "open loop: 4 requests per second, at random (Poisson)" in open_loop


def test_the_limit_of_a_good_request_is_drawn() -> None:
    page = html_page(report(settings=replace(SETTINGS, slo=Slo(ttft_ms=200))).as_json())
    for svg in svgs(page):
        (line,) = [line for line in svg.iter("line") if line.attrib["class"] == "limit"]
        assert "SLO limit: 200 ms" in "".join(svg.itertext())
        assert line.attrib["x1"] == line.attrib["x2"]
    assert 'class="limit"' not in "".join(re.findall("<svg.*?</svg>", html_page(report().as_json())))


def test_a_report_says_when_where_and_of_what_it_was_made() -> None:
    for document in (report().as_json(), study().as_json()):
        provenance = document["provenance"]
        assert datetime.fromisoformat(provenance["started_at"]).utcoffset() == timedelta(0)
        assert provenance["turntable_version"] == metadata.version("turntable-gateway")
        assert (provenance["url"], provenance["models"]) == (SETTINGS.url, SETTINGS.models)
        assert provenance["server_version"] == "0.32.0"
        assert provenance["machine"]["cores"]
        page = html_page(document)
        assert provenance["started_at"][:10] in page
        assert f"Turntable {provenance['turntable_version']}" in page
        assert f"of {SETTINGS.url} (0.32.0)" in page


@pytest.mark.parametrize("width", ["60", "80", "120", ""])
def test_tables_cut_nothing_at_any_width(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a-very-long-adapter-name-of-which-nothing-may-be-lost@v12"
    monkeypatch.setenv("COLUMNS", width)
    one = report(settings=replace(SETTINGS, models=("base", name)))
    print_report(one)
    print_study(Study("run", [Level(name, 8.0, [one]), Level("123456.75 req/s", 9.0, [one])], "Done."))
    text = capsys.readouterr().out
    assert "…" not in text
    assert name in re.sub(r"[^a-z0-9@-]", "", text)
    assert "123456.75 req/s" in text
