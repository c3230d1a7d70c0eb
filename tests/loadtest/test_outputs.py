"""Reports as files: one page without anything from elsewhere, CSV, and records that give the report again."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from loadtest.chart import Series, line_chart, nice_top
from loadtest.collector import Snapshot, Tallies
from loadtest.display import snapshot_table
from loadtest.meter import ClientLoad
from loadtest.page import charts_over_load, frontier, html_page
from loadtest.provenance import Provenance
from loadtest.records import RequestRecord
from loadtest.report import Report
from loadtest.run import LoadRun
from loadtest.settings import RunSettings
from loadtest.spreadsheet import csv_text
from loadtest.study import Level, Study

NASTY = '<script>alert("x")</script>'
SETTINGS = RunSettings("http://127.0.0.1:1", ("base", NASTY), usd_per_hour=2.0, key="tt-secret")


def report(ttft_ms: float = 20, cpu_share: float = 0.1) -> Report:
    tallies = Tallies.empty(SETTINGS.slo, SETTINGS.models)
    for index in range(10):
        first_s = index + ttft_ms / 1000
        record = RequestRecord(index, SETTINGS.models[index % 2], index, index, first_s + 0.1, 200, [first_s])
        record.cold = index < 2
        tallies.add(record)
    return Report.of(
        SETTINGS,
        LoadRun(
            tallies, ClientLoad(1, 0.1, cpu_share, None), False, Provenance.now(SETTINGS.url, SETTINGS.models, "0.32.0")
        ),
    )


def study() -> Study:
    return Study("sweep", [Level(f"{rate} req/s", rate, [report(ttft_ms=rate)]) for rate in (10, 20, 40)], "Done.")


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
    titles = [svg.attrib["aria-label"] for svg in svgs(page)]
    assert titles == ["TTFT", "E2E", "Throughput", "Cost against latency"]
    assert len(charts_over_load(study().as_json()["levels"])) == 5
    assert "Done." in page


def test_the_page_of_a_run_has_a_row_per_model_and_says_when_it_is_invalid() -> None:
    page = html_page(report(cpu_share=0.99).as_json())
    assert "INVALID: client-bound" in page
    assert page.count("&lt;script&gt;alert") >= 2
    assert "<td>cold</td><td>2</td>" in page


def test_the_frontier_is_cost_against_latency_with_its_levels_named() -> None:
    answered, good = frontier(study().as_json()["levels"])
    assert [round(latency) for latency, _ in answered.points] == [10, 20, 40]
    assert list(answered.labels) == ["10 req/s", "20 req/s", "40 req/s"]
    assert answered.points == good.points


@pytest.mark.parametrize(("most", "top"), [(0, 1), (0.3, 0.5), (1, 1), (2.2, 2.5), (80, 100), (1e6, 1e6)])
def test_axes_end_at_round_numbers(most: float, top: float) -> None:
    assert nice_top(most) == pytest.approx(top)


def test_points_lie_where_their_values_say() -> None:
    (svg,) = svgs(line_chart("t", "x", "y", [Series("s", [(0, 0), (5, 10), (10, 0)])]))
    (line,) = svg.iter("polyline")
    (left, low), (middle, high), (right, end) = (point.split(",") for point in line.attrib["points"].split())
    assert float(middle) == pytest.approx((float(left) + float(right)) / 2, abs=0.1)
    assert float(high) < float(low) == float(end)
    assert line_chart("t", "x", "y", [Series("s", [])]) == ""


def test_csv_has_a_line_per_level_and_model() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(study().as_json()))))
    assert len(rows) == 3 * 3
    assert [row["model"] for row in rows[:3]] == ["total", "base", NASTY]
    assert {row["level"] for row in rows} == {"10 req/s", "20 req/s", "40 req/s"}
    assert float(rows[0]["ttft_p50_ms"]) == pytest.approx(10)
    assert float(rows[0]["usd_per_good_request"]) > 0


def test_the_live_view_shows_the_state_of_all_processes_together() -> None:
    snapshot = Snapshot.sum_of([Snapshot(2.0, 10, 6, 1, (5.0,)), Snapshot(1.9, 10, 8, 0, (15.0,))])
    (row,) = zip(*(column.cells for column in snapshot_table("run", snapshot).columns), strict=True)
    assert row == ("2", "20", "14", "1", "5", "7.0", "10.0", "14.9")


def test_a_report_says_what_was_asked_but_no_key() -> None:
    asked = report().as_json()["settings"]
    assert asked["concurrency"] == 8
    assert "key" not in asked
    assert replace(SETTINGS, seed=1) != SETTINGS


def test_levels_under_one_load_are_drawn_one_beside_the_other() -> None:
    mixes = Study("run", [Level(name, 8.0, [report()]) for name in ("base", "a")], "").as_json()
    (svg, *_) = svgs(charts_over_load(mixes["levels"])[0])
    (line, *_) = svg.iter("polyline")
    first, second = (point.split(",")[0] for point in line.attrib["points"].split())
    assert float(first) < float(second)
