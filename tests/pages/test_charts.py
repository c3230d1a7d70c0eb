"""Charts: round ticks with units, values where they belong, limits at their value, names that stay text."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turntable.pages.charts import Axis, Bar, Limit, Range, Series, bars, lines, ranges
from turntable.pages.numbers import COUNT, MILLISECONDS, PERCENT, POINTS, REQUESTS_PER_S, USD, Unit, number
from turntable.pages.scales import linear, logarithmic
from turntable.pages.svg import Drawing

NASTY = '<script>alert("x")</script>'


def drawn(chart: Drawing | None) -> ElementTree.Element:
    assert chart is not None
    svg = ElementTree.fromstring(chart.__html__()).find("svg")
    assert svg is not None
    return svg


def texts(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter("text") if text.find("title") is None]


@pytest.mark.parametrize(
    ("value", "digits"),
    [(0, "0"), (10_000, "10,000"), (1234.5, "1,234"), (0.00001234, "0.0000123"), (12.5, "12.5"), (0.05, "0.05")],
)
def test_numbers_have_no_exponents(value: float, digits: str) -> None:
    assert number(value) == digits


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (MILLISECONDS, 250, "250 ms"),
        (MILLISECONDS, 10_000, "10 s"),
        (REQUESTS_PER_S, 1000, "1,000 req/s"),
        (USD, 0.02, "$0.02"),
        (USD, 0.01, "$0.01"),
        (USD, 0.00051, "$0.00051"),
        (USD, 1234.5, "$1,234"),
        (USD, -3, "-$3"),
        (PERCENT, 0.25, "25%"),
        (POINTS, 0.05, "+5 points"),
        (POINTS, -0.015, "-1.5 points"),
        (COUNT, 100_000, "100,000"),
        (COUNT, 2.5e6, "2.5M"),
    ],
)
def test_values_have_units_that_people_read(unit: Unit, value: float, text: str) -> None:
    assert unit.text(value) == text


@pytest.mark.parametrize(("most", "top"), [(0, 1), (0.3, 0.3), (1, 1), (2.2, 2.5), (80, 80), (97, 100), (1e6, 1e6)])
def test_axes_end_at_round_numbers(most: float, top: float) -> None:
    assert linear(0, most).high == pytest.approx(top)


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(2, 8))
def test_a_linear_scale_holds_its_values_between_evenly_spaced_ticks(one: float, other: float, intervals: int) -> None:
    low, high = sorted((one, other))
    scale = linear(low, high, intervals)
    assert scale.low <= low * (1 + 1e-9)
    assert scale.high >= high * (1 - 1e-9)
    assert 2 <= len(scale.ticks) <= intervals + 2
    steps = {round(after - before, 6) for before, after in zip(scale.ticks, scale.ticks[1:], strict=False)}
    assert max(steps) - min(steps) <= 1e-6 * max(1, scale.high)
    assert all(0 <= scale.at(value) <= 1 for value in (low, high, 2 * high + 1))


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_a_logarithmic_scale_has_few_ticks_without_exponents(one: float, other: float) -> None:
    low, high = sorted((one, other))
    scale = logarithmic(low, high)
    assert scale.low <= low * (1 + 1e-6)
    assert scale.high >= high * (1 - 1e-6)
    assert 2 <= len(scale.ticks) <= 7
    assert not any("e" in COUNT.text(tick) for tick in scale.ticks)


def test_points_lie_where_their_values_say() -> None:
    svg = drawn(lines("t", Axis("x"), Axis("y"), [Series("s", [(0, 0), (5, 10), (10, 0)])]))
    (line,) = svg.iter("polyline")
    (left, low), (middle, high), (right, end) = (point.split(",") for point in line.attrib["points"].split())
    assert float(middle) == pytest.approx((float(left) + float(right)) / 2, abs=0.1)
    assert float(high) < float(low) == float(end)


def test_nothing_is_drawn_from_no_figures() -> None:
    assert lines("t", Axis("x"), Axis("y"), [Series("s", [])]) is None
    assert lines("t", Axis("x"), Axis("y", is_log=True), [Series("s", [(1, 0)])]) is None
    assert bars("t", USD, [Bar("a", [("", 0.0)])]) is None
    assert bars("t", USD, []) is None
    assert ranges("t", Axis("", USD, is_log=True), [Range("a", 0, 0, 0, "$0")]) is None


def test_limits_are_drawn_at_their_value_with_their_name() -> None:
    limits = [Limit("SLO limit: 200 ms", 200), Limit("capacity: 5 req/s", 5, is_upright=True)]
    series = [Series("p99", [(0, 0), (10, 400)])]
    svg = drawn(lines("t", Axis("load", REQUESTS_PER_S), Axis("TTFT", MILLISECONDS), series, limits))
    level, upright = sorted(
        (line for line in svg.iter("line") if line.attrib["class"] == "limit"),
        key=lambda line: line.attrib["x1"] == line.attrib["x2"],
    )
    (line,) = svg.iter("polyline")
    (left, bottom), (right, top) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert float(level.attrib["y1"]) == float(level.attrib["y2"]) == pytest.approx((bottom + top) / 2, abs=0.1)
    assert float(upright.attrib["x1"]) == pytest.approx((left + right) / 2, abs=0.1)
    assert {"SLO limit: 200 ms", "capacity: 5 req/s", "200 ms", "400 ms", "load, req/s"} <= set(texts(svg))


def test_bars_are_as_long_as_their_values_and_stacked_parts_follow_each_other() -> None:
    rows = [Bar("a", [("working", 1.0), ("idle", 3.0)]), Bar("b", [("working", 2.0), ("idle", 0.0)])]
    svg = drawn(bars("t", USD, rows, stacked=True))
    begins = [
        (float(r.attrib["x"]), float(r.attrib["width"])) for r in svg.iter("rect") if r.attrib["height"] == "13.0"
    ]
    (first, one), (second, three), (third, two) = begins
    assert (first, third) == (0, 0)
    assert second == pytest.approx(one + 1, abs=0.2)
    assert three == pytest.approx(3 * one, rel=0.02)
    assert two == pytest.approx(2 * one, rel=0.02)
    assert {"$4", "$2", "working", "idle"} <= set(texts(svg))


def test_names_are_text_and_long_ones_are_whole_when_pointed_at() -> None:
    long = f"{NASTY} {'x' * 80}"
    chart = ranges("t", Axis("", PERCENT), [Range(long, 0.1, 0.2, 0.3, "20%")])
    svg = drawn(chart)
    assert "<script" not in chart.__html__() if chart else False
    (short,) = (text for text in svg.iter("text") if text.find("title") is not None)
    assert "".join(short.itertext()).startswith(long)
    assert (short.find("title").tail or "").endswith("…")  # type: ignore[union-attr]


def test_a_chart_says_what_it_shows_to_those_who_cannot_see_it() -> None:
    series = [Series("p50", [(1, 10), (2, 20)]), Series("p99", [(1, 30), (2, 4000)])]
    svg = drawn(lines("TTFT over load", Axis("load", REQUESTS_PER_S), Axis("TTFT", MILLISECONDS), series))
    assert svg.attrib["role"] == "img"
    assert svg.findtext("title") == "TTFT over load"
    described = svg.findtext("desc") or ""
    assert "p99: 30 ms at 1 req/s, 4 s at 2 req/s." in described
    dashes = [line.attrib.get("stroke-dasharray") for line in svg.iter("polyline")]
    assert len(set(dashes)) == 2, "lines differ without colour"


def test_a_file_has_its_own_style_and_title() -> None:
    chart = lines(f"Loss of {NASTY}", Axis("step"), Axis("loss"), [Series("training", [(1, 3), (2, 2)])])
    assert chart is not None
    root = ElementTree.fromstring(chart.file())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in (root.findtext("{http://www.w3.org/2000/svg}style") or "")
    assert "Loss of <script>" in "".join(root.itertext())
