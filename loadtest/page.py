"""A report as one self-contained HTML page: verdict, charts, and a row for every level and model."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from loadtest.chart import Limit, Series, bar_chart, in_digits, line_chart
from loadtest.comparison import MEASURES, Json, Measure, levels_of, mean
from loadtest.run import provenance_line
from loadtest.sentences import asked_in_words, backlog_sentence, cached_sentence, verdict_in_words

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
svg { width: 100%; max-width: 38rem; border: 1px solid var(--line); border-radius: 6px;
  font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .title { font-size: 14px; font-weight: 600; } svg .small { font-size: 10px; }
.grid { stroke: var(--line); } svg text.limit { fill: #c53030; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
td { white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
th:first-child { min-width: 6rem; }
td:first-child, .asked td { white-space: normal; overflow-wrap: anywhere; } .asked td { text-align: left; }
thead th { background: var(--soft); font-weight: 600; } tr.total td { font-weight: 600; }
.bad { background: #c53030; color: #fff; padding: .6rem 1rem; border-radius: 6px; }
.good { background: var(--soft); padding: .6rem 1rem; border-radius: 6px; }
p, dd, dt, h2 { overflow-wrap: anywhere; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; }
@media (max-width: 60rem) {
  table, tbody, tr, td { display: block; } thead { display: none; }
  tr { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .3rem .6rem; }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; white-space: normal; }
  td::before { content: attr(data-name); text-align: left; opacity: .75; }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
}
"""
SHOWN_LATENCIES = (("ttft", "p50"), ("ttft", "p99"), ("itl", "p99"), ("e2e", "p50"), ("e2e", "p99"))
PERCENTILES = ("p50", "p95", "p99")
METRICS = ("ttft", "itl", "tpot", "e2e")
LIMITED = {"ttft": "p99_ttft_ms", "itl": "p99_itl_ms"}
MOST_BARS = 25
"""Models in the chart; with more of them the slowest ones are."""


def html_page(document: Mapping[str, Any]) -> str:
    """The page of a report or study, given as its JSON."""
    levels = [level for level in levels_of(document) if level["reports"]]
    charts = charts_over_load(levels, document) if len(levels) > 1 else charts_of_one(levels[0]) if levels else []
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Load test</title><style>{STYLE}</style></head><body><h1>Load test</h1>",
        *_banner(document, levels),
        '<div class="charts">',
        *charts,
        "</div>",
        *_levels(levels),
        *(_models(level) for level in levels),
        *_footer(document, levels),
        "</body></html>\n",
    ]
    return "".join(parts)


def charts_over_load(levels: Sequence[Json], document: Mapping[str, Any]) -> list[str]:
    """Latency percentiles, throughput and cost, over the load of each level; mixes of models as bars."""
    loads = [float(level["load"] or 0.0) for level in levels]
    if len(set(loads)) < len(levels):
        return _charts_by_level(levels)
    is_open = bool(levels[0]["reports"][0]["settings"]["rate_per_s"])
    x_label = "requests offered per second" if is_open else "users at a time"

    def over_load(name: str, path: str) -> Series:
        points = [(load, value) for load, level in zip(loads, levels, strict=True)
                  if (value := mean(level, path)) is not None]  # fmt: skip
        return Series(name, points)

    charts = []
    for metric in ("ttft", "itl", "e2e"):
        lines = [over_load(p, f"total.{metric}.{p}_ms") for p in PERCENTILES]
        charts.append(line_chart(metric.upper(), x_label, "ms", lines, _limits(levels[0], document, metric)))
    answered = [over_load("answered", "total.requests_per_s"), over_load("good", "total.good_per_s")]
    charts.append(line_chart("Throughput", x_label, "requests per second", answered))
    charts.append(line_chart("Cost against latency", "TTFT p95, ms", "$ per 1,000 requests", frontier(levels)))
    return charts


def _limits(level: Json, document: Mapping[str, Any], metric: str) -> list[Limit]:
    """What a request, or a level of a search for the capacity, had to keep."""
    searched = ((document.get("capacity") or {}).get("limits") or {}).get(LIMITED.get(metric, ""))
    asked = level["reports"][0]["settings"]["slo"].get(f"{metric}_ms")
    named = (("p99 limit", searched), ("limit of a good request", asked))
    return [Limit(f"{name}: {in_digits(value)} ms", value) for name, value in named if value is not None]


def _charts_by_level(levels: Sequence[Json]) -> list[str]:
    def by_level(paths: Sequence[str]) -> list[tuple[str, list[float]]]:
        return [(str(level["label"]), [mean(level, path) or 0.0 for path in paths]) for level in levels]

    charts = [
        bar_chart(metric.upper(), "ms", by_level([f"total.{metric}.{p}_ms" for p in PERCENTILES]), PERCENTILES)
        for metric in ("ttft", "itl", "e2e")
        if any(mean(level, f"total.{metric}.p50_ms") is not None for level in levels)
    ]
    answered = by_level(["total.requests_per_s", "total.good_per_s"])
    return [*charts, bar_chart("Throughput", "requests per second", answered, ("answered", "good"))]


def frontier(levels: Sequence[Json]) -> list[Series]:
    """Cost per thousand requests at each level's TTFT: of the answered, and of the good ones."""
    series = []
    for name, path in (("per answered", "cost.per_request"), ("per good", "cost.per_good_request")):
        known = [
            (latency, cost * 1000, str(level["label"]))
            for level in levels
            if (latency := mean(level, "total.ttft.p95_ms")) is not None and (cost := mean(level, path)) is not None
        ]
        known.sort()
        series.append(Series(name, [row[:2] for row in known], [row[2] for row in known]))
    return series


def charts_of_one(level: Json) -> list[str]:
    """The distribution of TTFT, and TTFT by model, of one run."""
    report = level["reports"][0]
    limit_ms = report["settings"]["slo"]["ttft_ms"]
    limit = Limit(f"limit: {in_digits(limit_ms)} ms", limit_ms, is_upright=True) if limit_ms else None
    shares = [(ms, share * 100) for ms, share in report.get("ttft_shares") or []]
    rows = sorted(
        ((name, row["ttft"]) for name, row in report["models"].items() if row["ttft"]),
        key=lambda row: -row[1]["p99_ms"],
    )
    by_model = [(name, [float(ttft[f"{p}_ms"]) for p in PERCENTILES]) for name, ttft in rows[:MOST_BARS]]
    title = "TTFT: share of the answers that had begun"
    charts = [line_chart(title, "ms", "% of answers", [Series("TTFT", shares)], [limit] if limit else [])]
    if len(rows) > 1:
        charts.append(bar_chart("TTFT by model, slowest first", "ms", by_model, PERCENTILES, limit))
    return charts


def _banner(document: Mapping[str, Any], levels: Sequence[Json]) -> Iterator[str]:
    verdict = str(document.get("verdict"))
    reports = [report for level in levels for report in level["reports"]]
    reasons = dict.fromkeys(reason for report in reports for reason in report["invalid"])
    style = "good" if verdict == "valid" else "bad"
    words = " ".join([str(document.get("conclusion") or ""), verdict_in_words(verdict), *reasons]).strip()
    yield f'<p class="{style}">{escape(words)}</p>'
    provenance = document.get("provenance")
    if provenance:
        yield f"<p>{escape(provenance_line(provenance))}</p>"
    if len(levels) == 1:
        for sentence in (backlog_sentence(reports[-1]), cached_sentence(reports)):
            yield f"<p>{escape(sentence)}</p>" if sentence else ""
    elif sentence := cached_sentence(reports):
        yield f"<p>{escape(sentence)}</p>"


def _levels(levels: Sequence[Json]) -> Iterator[str]:
    shown = [measure for measure in MEASURES if any(mean(level, measure.path) is not None for level in levels)]
    times = [measure for measure in shown if measure.unit == "ms"]
    others = [measure for measure in shown if measure.unit != "ms"]
    one = len(levels) == 1
    yield f"<h2>{'The whole run' if one else 'Load levels'}</h2>"
    for title, measures in (("Answers and cost", others), ("Latency, ms", times)):
        head = ["load level", *(["repeats", "load tester's CPU"] if measures is others else [])]
        head += [measure.label if measure.unit == "ms" else f"{measure.label}, {measure.unit}" for measure in measures]
        rows = []
        for level in levels:
            cpu = mean(level, "client.cpu_share") or 0.0
            cells = [str(level["label"])]
            cells += [str(len(level["reports"])), f"{cpu:.0%}"] if measures is others else []
            rows.append([*cells, *(_cell(level, measure) for measure in measures)])
        yield f"<h3>{title}</h3>{_table(head, rows)}"


def _cell(level: Json, measure: Measure) -> str:
    value = mean(level, measure.path)
    if value is None:
        return "-"
    half_width = (level.get("estimates") or {}).get(measure.path, {}).get("half_width")
    return in_digits(value) if half_width is None else f"{in_digits(value)} ± {in_digits(half_width)}"


def _models(level: Json) -> str:
    head = ["model", "requests", "answered", "good", "failed", *(f"{m.upper()} {p}, ms" for m, p in SHOWN_LATENCIES)]
    head += ["tokens/s"]
    report = level["reports"][-1]
    named = list(report["models"].items())
    if len(named) > 1:
        named.append(("all models", report["total"]))
    if report["cold"]:
        named += [("of these: cold models", report["cold"]), ("of these: warm models", report["warm"])]
    named.append(("of these: near a promotion", report["near_promotion"]))
    rows = []
    for name, row in named:
        if row:
            latencies = [(row[metric], p) for metric, p in SHOWN_LATENCIES]
            cells = [name, *(f"{row[count]:,}" for count in ("requests", "succeeded", "good", "failed"))]
            cells += [f"{found[f'{p}_ms']:,.1f}" if found else "-" for found, p in latencies]
            rows.append([*cells, f"{row['output_tokens_per_s']:,.1f}"])
    return f"<h2>By model: {escape(str(level['label']))}</h2>{_table(head, rows, len(report['models']))}"


def _footer(document: Mapping[str, Any], levels: Sequence[Json]) -> Iterator[str]:
    if levels and (document.get("provenance") or {}).get("url"):
        yield "<h2>What was asked</h2>"
        rows = list(asked_in_words(levels[0]["reports"][0]["settings"]))
        if len(levels) > 1:
            rows = [(f"{name} of the first level" if name in ("load", "models") else name, cell) for name, cell in rows]
        yield _table(["", ""], rows, style="asked")
    yield "<h2>What the words mean</h2><dl>"
    for name, meaning in (document.get("definitions") or {}).items():
        word = name.upper() if name in METRICS else name.replace("_", " ")
        yield f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], total: int | None = None, style: str = "") -> str:
    """A table; on a narrow screen every row becomes a list of names and values."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = []
    for number, row in enumerate(rows):
        cells = (f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(head, row, strict=True))
        opening = '<tr class="total">' if number == total else "<tr>"
        body.append(f"{opening}{''.join(cells)}</tr>")
    shown = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table class="{style}">{shown}<tbody>{"".join(body)}</tbody></table></div>'
