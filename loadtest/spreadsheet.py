"""A report as CSV: one line for every load level, repeat and model."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from loadtest.measures import levels_of

COUNTS = ("requests", "succeeded", "good", "failed", "prompt_tokens", "completion_tokens")
RATES = ("requests_per_s", "good_per_s", "output_tokens_per_s")
LATENCIES = ("ttft", "itl", "tpot", "e2e", "lag", "queueing")
PERCENTILES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms")


def csv_text(document: Mapping[str, Any]) -> str:
    """The lines, with a header; `model` is `total` for all models together."""
    text = io.StringIO()
    writer = csv.writer(text)
    measured = [f"{latency}_{percentile}" for latency in LATENCIES for percentile in PERCENTILES]
    writer.writerow(["level", "repeat", "verdict", "model", *COUNTS, *RATES, *measured, "usd_per_good_request"])
    for level in levels_of(document):
        for number, report in enumerate(level["reports"], 1):
            for model, row in [("total", report["total"]), *report["models"].items()]:
                cells: list[Any] = [row[name] for name in (*COUNTS, *RATES)]
                cells += [(row[latency] or {}).get(percentile) for latency in LATENCIES for percentile in PERCENTILES]
                good_cost = (report["cost"] or {}).get("per_good_request") if model == "total" else None
                writer.writerow([level["label"], number, report["verdict"], model, *cells, good_cost])
    return text.getvalue()
