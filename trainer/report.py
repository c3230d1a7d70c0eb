"""A comparison made readable: a table for people, a JSON document for programs, every answer beside it."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.evaluate import Comparison
from trainer.files import replacing
from trainer.scoring import ModelScore, Rate

_LABELS = {"schema_valid": "schema-valid", "stopped": "stopped by itself"}


def print_table(comparison: Comparison, console: Console) -> None:
    """Models side by side, each rate with its 95 % interval."""
    scores = comparison.scores
    table = Table("", *(score.model for score in scores), title=comparison.task.name)
    for name in scores[0].rates:
        cells = [_cell(score.rates[name]) for score in scores]
        table.add_row(_LABELS.get(name, f"{name} right"), *cells)
    table.add_row("latency p50", *(f"{score.latency_p50_ms:,.0f} ms" for score in scores))
    table.add_row("tokens in / out", *(f"{s.prompt_tokens:,} / {s.completion_tokens:,}" for s in scores))
    table.add_row("answered", *(f"{score.requests - score.failed} of {score.requests}" for score in scores))
    console.print(table)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data, without the single answers."""
    return {
        "task": comparison.task.model_dump(mode="json"),
        "data_sha256": comparison.data_sha256,
        "complete": not comparison.failures,
        "models": {score.model: _score_json(score) for score in comparison.scores},
    }


def save(comparison: Comparison, path: Path) -> Path:
    """Write the report to `path` and every answer to a JSONL file beside it, whose path is returned."""
    answers = path.with_suffix(".answers.jsonl")
    with replacing(answers) as file:
        file.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in comparison.answers)
    with replacing(path) as file:
        json.dump(as_json(comparison), file, indent=2, ensure_ascii=False)
    return answers


def default_path(comparison: Comparison, data_dir: Path) -> Path:
    """Where a report goes when nobody says where."""
    return data_dir / "comparisons" / f"{comparison.task.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"


def _cell(rate: Rate) -> str:
    low, high = rate.interval
    return f"{rate.value:6.1%}  [dim]({low:.0%} to {high:.0%})[/]"


def _score_json(score: ModelScore) -> dict[str, Any]:
    rates = {
        name: {"value": rate.value, "hits": rate.hits, "of": rate.of, "interval_95": rate.interval}
        for name, rate in score.rates.items()
    }
    return {key: value for key, value in asdict(score).items() if key not in ("model", "rates")} | {"rates": rates}
