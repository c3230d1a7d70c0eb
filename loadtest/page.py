"""The report of a load test as one HTML page: capacity or throughput, charts with their SLO, every level and model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loadtest.comparison import COMPARED_METRICS, ComparedMetric, Json, levels_of, mean
from loadtest.run import provenance_line
from loadtest.sentences import asked_in_words, backlog_sentence, cached_sentence, verdict_in_words
from turntable.pages import charts
from turntable.pages.charts import Axis, Bar, Limit, Series
from turntable.pages.numbers import COUNT, MILLISECONDS, PERCENT, REQUESTS_PER_S, USD, number
from turntable.pages.render import page
from turntable.pages.svg import Drawing
from turntable.pages.tables import PageTable, Tile

SHOWN_LATENCIES = (("ttft", "p50"), ("ttft", "p99"), ("itl", "p99"), ("e2e", "p50"), ("e2e", "p99"))
PERCENTILES = ("p50", "p95", "p99")
METRICS = ("ttft", "itl", "tpot", "e2e")
LIMITED = {"ttft": "p99_ttft_ms", "itl": "p99_itl_ms"}
MOST_BARS = 25
"""Models in the chart; with more of them the slowest ones are."""
_THOUSAND = 1000


def html_page(document: Mapping[str, Any]) -> str:
    """Render the page of a report or study, given as its JSON."""
    levels = [level for level in levels_of(document) if level["reports"]]
    drawings = charts_over_load(levels, document) if len(levels) > 1 else charts_of_one(levels[0]) if levels else []
    headline, tone = _headline(document, levels)
    provenance = document.get("provenance")
    return page(
        "loadtest/page.html",
        title="Load test",
        headline=headline,
        tone=tone,
        sentences=list(_sentences(document, levels)),
        provenance=provenance_line(provenance) if provenance else "",
        tiles=list(_tiles(levels, document)),
        charts=drawings,
        levels_title="The whole run" if len(levels) == 1 else "Load levels",
        throughput=_levels_table(levels, lambda metric: metric.unit != "ms", is_first=True),
        latency=_levels_table(levels, lambda metric: metric.unit == "ms"),
        models=[(str(level["label"]), _models_table(level)) for level in levels],
        settings=_settings(document, levels),
        definitions=[
            (name.upper() if name in METRICS else name.replace("_", " "), meaning)
            for name, meaning in (document.get("definitions") or {}).items()
        ],
    )


def charts_over_load(levels: Sequence[Json], document: Mapping[str, Any]) -> list[Drawing]:
    """Draw latency percentiles, throughput and cost over the load of each level; mixes of models as bars."""
    loads = [float(level["load"] or 0.0) for level in levels]
    if len(set(loads)) < len(levels):
        return _charts_by_level(levels)
    is_open = bool(levels[0]["reports"][0]["settings"]["rate_per_s"])
    load = Axis("offered load", REQUESTS_PER_S) if is_open else Axis("concurrent users", COUNT)
    within = (document.get("capacity") or {}).get("within_per_s")
    capacity = [Limit(f"capacity: {REQUESTS_PER_S.text(within)}", within, is_upright=True)] if within else []

    def over_load(name: str, path: str) -> Series:
        rows = [(at, mean(level, path)) for at, level in zip(loads, levels, strict=True)]
        return Series(name, [(at, value) for at, value in rows if value is not None])

    drawings = []
    for metric in ("ttft", "itl", "e2e"):
        series = [over_load(p, f"total.{metric}.{p}_ms") for p in PERCENTILES]
        limits = [*_limits(levels[0], document, metric), *capacity]
        title = f"{metric.upper()} over load"
        drawings.append(charts.lines(title, load, Axis(metric.upper(), MILLISECONDS), series, limits))
    answered = [over_load("answered", "total.requests_per_s"), over_load("good", "total.good_per_s")]
    throughput = Axis("throughput", REQUESTS_PER_S)
    drawings.append(charts.lines("Throughput over load", load, throughput, answered, capacity))
    drawings.append(
        charts.lines(
            "Cost against latency",
            Axis("TTFT p95", MILLISECONDS),
            Axis("USD per 1,000 requests", USD),
            frontier(levels),
        )
    )
    return [drawing for drawing in drawings if drawing]


def frontier(levels: Sequence[Json]) -> list[Series]:
    """Return the cost per thousand requests at each level's TTFT: of the answered, and of the good ones."""
    series = []
    for name, path in (("per answered", "cost.per_request"), ("per good", "cost.per_good_request")):
        known = [
            (latency, cost * _THOUSAND, str(level["label"]))
            for level in levels
            if (latency := mean(level, "total.ttft.p95_ms")) is not None and (cost := mean(level, path)) is not None
        ]
        known.sort()
        series.append(Series(name, [row[:2] for row in known], [row[2] for row in known]))
    return series


def charts_of_one(level: Json) -> list[Drawing]:
    """Draw the distribution of TTFT, and TTFT by model, of one run."""
    report = level["reports"][0]
    limit_ms = report["settings"]["slo"]["ttft_ms"]
    limit = Limit(f"SLO limit: {MILLISECONDS.text(limit_ms)}", limit_ms, is_upright=True) if limit_ms else None
    shares = [(ms, share) for ms, share in report.get("ttft_shares") or []]
    distribution = charts.lines(
        "TTFT distribution",
        Axis("TTFT", MILLISECONDS),
        Axis("share of answers", PERCENT, high=1.0),
        [Series("TTFT", shares)],
        [limit] if limit else [],
    )
    rows = sorted(
        ((name, row["ttft"]) for name, row in report["models"].items() if row["ttft"]),
        key=lambda row: -row[1]["p99_ms"],
    )
    by_model = [Bar(name, [(p, float(ttft[f"{p}_ms"])) for p in PERCENTILES]) for name, ttft in rows[:MOST_BARS]]
    bars = charts.bars("TTFT by model, slowest first", MILLISECONDS, by_model, limit=limit) if len(rows) > 1 else None
    return [drawing for drawing in (distribution, bars) if drawing]


def _charts_by_level(levels: Sequence[Json]) -> list[Drawing]:
    def by_level(parts: Sequence[tuple[str, str]]) -> list[Bar]:
        return [
            Bar(str(level["label"]), [(name, mean(level, path) or 0.0) for name, path in parts]) for level in levels
        ]

    drawings = [
        charts.bars(metric.upper(), MILLISECONDS, by_level([(p, f"total.{metric}.{p}_ms") for p in PERCENTILES]))
        for metric in ("ttft", "itl", "e2e")
        if any(mean(level, f"total.{metric}.p50_ms") is not None for level in levels)
    ]
    answered = by_level([("answered", "total.requests_per_s"), ("good", "total.good_per_s")])
    drawings.append(charts.bars("Throughput", REQUESTS_PER_S, answered))
    return [drawing for drawing in drawings if drawing]


def _limits(level: Json, document: Mapping[str, Any], metric: str) -> list[Limit]:
    """Return what a request, or a level of a search for the capacity, had to keep."""
    searched = ((document.get("capacity") or {}).get("limits") or {}).get(LIMITED.get(metric, ""))
    slo_ms = level["reports"][0]["settings"]["slo"].get(f"{metric}_ms")
    named = (("p99 limit", searched), ("SLO limit", slo_ms))
    return [Limit(f"{name}: {MILLISECONDS.text(value)}", value) for name, value in named if value is not None]


def _headline(document: Mapping[str, Any], levels: Sequence[Json]) -> tuple[str, str]:
    """Return the one figure that the test was made for, or why there is none, and its tone."""
    verdict = str(document.get("verdict"))
    if verdict != "valid" or not levels:
        return verdict, "bad" if verdict.startswith("INVALID") else "unsure"
    if capacity := document.get("capacity"):
        within = capacity.get("within_per_s")
        return (
            (f"{REQUESTS_PER_S.text(within)} within the limits", "plain")
            if within
            else ("No rate within the limits", "unsure")
        )
    best = _best(levels, document)
    answered, good = mean(best, "total.requests_per_s") or 0.0, mean(best, "total.good_per_s") or 0.0
    if any(limit is not None for limit in best["reports"][0]["settings"]["slo"].values()):
        return f"{REQUESTS_PER_S.text(good)} goodput", "plain"
    return f"{REQUESTS_PER_S.text(answered)} answered", "plain"


def _sentences(document: Mapping[str, Any], levels: Sequence[Json]) -> Iterator[str]:
    reports = [report for level in levels for report in level["reports"]]
    if conclusion := document.get("conclusion"):
        yield str(conclusion)
    reasons = dict.fromkeys(reason for report in reports for reason in report["invalid"])
    yield " ".join([verdict_in_words(str(document.get("verdict"))), *reasons])
    if len(levels) == 1 and (sentence := backlog_sentence(reports[-1])):
        yield sentence
    if sentence := cached_sentence(reports):
        yield sentence


def _tiles(levels: Sequence[Json], document: Mapping[str, Any]) -> Iterator[Tile]:
    """The key figures of the run, or of the best of its levels."""
    if not levels:
        return
    best = _best(levels, document)
    at = f"at {best['label']}" if len(levels) > 1 else ""
    for metric, percentile in (("ttft", "p50"), ("ttft", "p99"), ("itl", "p99"), ("e2e", "p99")):
        value = mean(best, f"total.{metric}.{percentile}_ms")
        if value is not None:
            yield Tile(f"{metric.upper()} {percentile}", MILLISECONDS.text(value), at)
    total = best["reports"][-1]["total"]
    yield Tile("Failed", f"{total['failed']:,}", f"of {total['requests']:,} requests {at}".strip())
    cost = mean(best, "cost.per_good_request")
    if cost is not None:
        yield Tile("Per 1,000 good requests", USD.text(cost * _THOUSAND), at)


def _best(levels: Sequence[Json], document: Mapping[str, Any]) -> Json:
    """Return the highest level within the capacity, or where none is known that with the most good answers."""
    within = (document.get("capacity") or {}).get("within_per_s") or 0.0
    inside = [level for level in levels if (level.get("load") or 0.0) <= within]
    if inside and within:
        return max(inside, key=lambda level: level.get("load") or 0.0)
    return max(levels, key=lambda level: mean(level, "total.good_per_s") or 0.0)


def _levels_table(
    levels: Sequence[Json], is_shown: Callable[[ComparedMetric], bool], *, is_first: bool = False
) -> PageTable:
    metrics = [
        metric
        for metric in COMPARED_METRICS
        if is_shown(metric) and any(mean(level, metric.path) is not None for level in levels)
    ]
    head = ["load level", *(["repeats", "client CPU"] if is_first else [])]
    head += [metric.label if metric.unit == "ms" else f"{metric.label}, {metric.unit}" for metric in metrics]
    rows = []
    for level in levels:
        cells = [str(level["label"])]
        cells += [str(len(level["reports"])), f"{mean(level, 'client.cpu_share') or 0.0:.0%}"] if is_first else []
        rows.append([*cells, *(_cell(level, metric) for metric in metrics)])
    return PageTable(head, rows)


def _cell(level: Json, metric: ComparedMetric) -> str:
    value = mean(level, metric.path)
    if value is None:
        return "-"
    half_width = (level.get("estimates") or {}).get(metric.path, {}).get("half_width")
    return number(value) if half_width is None else f"{number(value)} ± {number(half_width)}"


def _models_table(level: Json) -> PageTable:
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
    return PageTable(head, rows, totals=(len(report["models"]),))


def _settings(document: Mapping[str, Any], levels: Sequence[Json]) -> list[tuple[str, str]]:
    """Return what was asked of which server; nothing where the report was made from raw timestamps."""
    if not levels or not (document.get("provenance") or {}).get("url"):
        return []
    rows = list(asked_in_words(levels[0]["reports"][0]["settings"]))
    if len(levels) > 1:
        rows = [(f"{name} of the first level" if name in ("load", "models") else name, cell) for name, cell in rows]
    return rows
