"""A report as one self-contained HTML page: verdict, charts, and a row for every level and model."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from loadtest.chart import Series, line_chart
from loadtest.measures import MEASURES, Json, Measure, levels_of, mean

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
svg { width: 100%; border: 1px solid var(--line); border-radius: 6px; font: 11px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .title { font-size: 13px; font-weight: 600; } .grid { stroke: var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { background: var(--soft); }
.bad { background: #c53030; color: #fff; padding: .6rem 1rem; border-radius: 6px; }
.good { background: var(--soft); padding: .6rem 1rem; border-radius: 6px; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 0; }
"""
SHOWN_LATENCIES = (("ttft", "p50"), ("ttft", "p99"), ("itl", "p99"), ("e2e", "p50"), ("e2e", "p99"))
PERCENTILES = ("p50", "p95", "p99")


def html_page(document: Mapping[str, Any]) -> str:
    """The page of a report or study, given as its JSON."""
    levels = [level for level in levels_of(document) if level["reports"]]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Load test</title><style>{STYLE}</style></head><body><h1>Load test</h1>",
        *_banner(document, levels),
        '<div class="charts">',
        *(charts_over_load(levels) if len(levels) > 1 else charts_of_one(levels[0]) if levels else []),
        "</div>",
        *_levels(levels),
        *(_models(level) for level in levels),
        *_footer(document, levels),
        "</body></html>\n",
    ]
    return "".join(parts)


def charts_over_load(levels: Sequence[Json]) -> list[str]:
    """Latency percentiles, throughput and cost, over the load of each level."""
    loads = [float(level["load"] or 0.0) for level in levels]
    x_label = "load of the level (requests per second, or users)"
    if len(set(loads)) < len(levels):
        # Mixes of models under one load: one beside the other.
        loads, x_label = [float(place) for place in range(1, len(levels) + 1)], "level, in the order of the table"

    def over_load(name: str, path: str) -> Series:
        points = [(load, value) for load, level in zip(loads, levels, strict=True)
                  if (value := mean(level, path)) is not None]  # fmt: skip
        return Series(name, points)

    charts = [
        line_chart(metric.upper(), x_label, "ms", [over_load(p, f"total.{metric}.{p}_ms") for p in PERCENTILES])
        for metric in ("ttft", "itl", "e2e")
    ]
    answered = [over_load("answered", "total.requests_per_s"), over_load("good", "total.good_per_s")]
    charts.append(line_chart("Throughput", x_label, "requests per second", answered))
    charts.append(line_chart("Cost against latency", "TTFT p95, ms", "$ per 1,000 requests", frontier(levels)))
    return charts


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
    """The distribution of TTFT, and latency by model, of one run."""
    report = level["reports"][0]
    shares = [(ms, share) for ms, share in report.get("ttft_shares") or []]
    rows = sorted(
        ((name, row["ttft"]) for name, row in report["models"].items() if row["ttft"]),
        key=lambda row: -row[1]["p99_ms"],
    )
    names = [name for name, _ in rows]
    by_model = [Series(p, [(at, ttft[f"{p}_ms"]) for at, (_, ttft) in enumerate(rows, 1)], names) for p in PERCENTILES]
    charts = [line_chart("TTFT: share of answers that had begun", "ms", "share", [Series("TTFT", shares)])]
    if len(rows) > 1:
        charts.append(line_chart("TTFT by model, slowest first", "model (hover for its name)", "ms", by_model))
    return charts


def _banner(document: Mapping[str, Any], levels: Sequence[Json]) -> Iterator[str]:
    verdict = str(document.get("verdict"))
    reasons = dict.fromkeys(reason for level in levels for report in level["reports"] for reason in report["invalid"])
    style = "good" if verdict == "valid" else "bad"
    words = " ".join([f"Verdict: {verdict}.", str(document.get("conclusion") or ""), *reasons])
    yield f'<p class="{style}">{escape(words)}</p>'


def _levels(levels: Sequence[Json]) -> Iterator[str]:
    shown = [measure for measure in MEASURES if any(mean(level, measure.path) is not None for level in levels)]
    head = ["load level", "repeats", "client CPU", *(f"{measure.label}, {measure.unit}" for measure in shown)]
    rows = []
    for level in levels:
        cpu = mean(level, "client.cpu_share") or 0.0
        cells = [str(level["label"]), str(len(level["reports"])), f"{cpu:.0%}"]
        rows.append([*cells, *(_cell(level, measure) for measure in shown)])
    yield f"<h2>Load levels</h2>{_table(head, rows)}"


def _cell(level: Json, measure: Measure) -> str:
    value = mean(level, measure.path)
    if value is None:
        return "-"
    half_width = (level.get("estimates") or {}).get(measure.path, {}).get("half_width")
    return f"{value:.4g}" if half_width is None else f"{value:.4g} ± {half_width:.2g}"


def _models(level: Json) -> str:
    head = ["model", "requests", "answered", "good", "failed", "TTFT p50", "TTFT p99", "ITL p99", "E2E p50", "E2E p99"]
    head += ["tokens/s"]
    report = level["reports"][-1]
    named = [*report["models"].items(), ("cold", report["cold"]), ("warm", report["warm"])]
    named.append(("near a promotion", report["near_swap"]))
    rows = []
    for name, row in named:
        if row:
            latencies = [(row[metric], p) for metric, p in SHOWN_LATENCIES]
            cells = [name, *(str(row[count]) for count in ("requests", "succeeded", "good", "failed"))]
            cells += [f"{found[f'{p}_ms']:.1f}" if found else "-" for found, p in latencies]
            rows.append([*cells, f"{row['output_tokens_per_s']:.1f}"])
    return f"<h2>By model: {escape(str(level['label']))}</h2>{_table(head, rows)}"


def _footer(document: Mapping[str, Any], levels: Sequence[Json]) -> Iterator[str]:
    if levels:
        settings = levels[0]["reports"][0]["settings"]
        rows = [[name, str(value)] for name, value in settings.items() if value not in (None, 0, "")]
        yield f"<h2>What was asked</h2>{_table(['setting', 'value'], rows)}"
    yield "<h2>What the words mean</h2><dl>"
    for name, meaning in (document.get("definitions") or {}).items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>"
    yield "</dl>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
