"""Comparisons as `turntable compare` leaves them, to report on and to rate."""

import json
from pathlib import Path
from typing import Any

from trainer.eval.report import (
    Arm,
    ArmCost,
    ArmKind,
    BaseFacts,
    Check,
    ComparisonReport,
    Difference,
    Examples,
    Gate,
    Latency,
    MetricResult,
    ShownAnswer,
    TaskFacts,
    Tokens,
    VerdictWord,
)

DIGEST = "ab" * 32
HOSTILE = "<script>alert('x')</script></pre>```\n# owned\n<img src=x onerror=alert(1)>"


def measure(value: float, of: int = 200) -> MetricResult:
    return MetricResult(value=value, interval_95=(max(0, value - 0.06), min(1, value + 0.06)), of=of)


def arm(name: str, kind: ArmKind, right: float, *, digest: str | None = None, cost: int | None = 1_200) -> Arm:
    return Arm(
        name=name,
        kind=kind,
        model=name,
        digest=digest,
        metrics={"correct": measure(right), "length": MetricResult(value=31.5, interval_95=(30, 33), of=200)},
        slices={
            "category=billing": {"correct": measure(right, 50)},
            "category=account": {"correct": measure(right, 150)},
        },
        tokens=Tokens(prompt=11_000, completion=6_000),
        latency_ms=Latency(p50=250, p95=410),
        cost_nano_usd=ArmCost(total=cost and cost * 200, per_request=cost, per_correct=cost and int(cost / right)),
    )


def report(**changes: Any) -> ComparisonReport:
    """A comparison in which the adapter wins; `changes` are fields in place of its own."""
    base, prompted = arm("base", ArmKind.BASE, 0.2), arm("prompted", ArmKind.PROMPTED, 0.4, cost=None)
    mine = arm("triage", ArmKind.ADAPTER, 0.6, digest=DIGEST)
    shown = ShownAnswer(line=3, prompt=HOSTILE, expected='{"a": 1}', before=HOSTILE, after="fine")
    fields: dict[str, Any] = {
        "created_at": "2026-11-25T16:00:00Z",
        "complete": True,
        "task": TaskFacts(name="triage", sha256="cd" * 32, items=200, frozen_at="2026-11-25T15:00:00Z"),
        "base": BaseFacts(model="base", base_sha256="ef" * 32, template_sha256=None),
        "arms": (base, prompted, mine),
        "differences": (
            Difference(
                arm="triage",
                against="prompted",
                metric="correct",
                value=0.2,
                interval_95=(0.11, 0.29),
                items_needed=120,
            ),
        ),
        "gate": Gate(
            verdict=VerdictWord.PROMOTE,
            summary="triage is 20 points better than prompted.",
            checks=(
                Check(
                    name="gain",
                    passed=True,
                    measured=0.2,
                    required="at least 5 points",
                    sentence="It gains 20.",
                    limit=0.05,
                ),
            ),
            arm="triage",
            against="prompted",
        ),
        "examples": Examples(won=(shown,)),
        "answers": "answers.jsonl",
    }
    return ComparisonReport(**fields | changes)


def saved(folder: Path, document: ComparisonReport) -> Path:
    """The report in a folder of its own, as compare keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    document.save(folder / "report.json")
    return folder / "report.json"


def write_run(data_dir: Path, data: Path, sha256: str, **facts: Any) -> None:
    """The files of a finished run that a report looks at."""
    folder = data_dir / "runs" / "triage-1"
    folder.mkdir(parents=True)
    side = {"file": data.name, "sha256": sha256, "rows": 2, "dropped_lines": []}
    training = {
        "name": "triage",
        "method": "lora",
        "digest": DIGEST,
        "base_model": "embedded",
        "base_weights_sha256": "99" * 32,
        "recipe": {"train": data.name},
        "recipe_sha256": "77" * 32,
        "data": {"train": side, "valid": {"file": None, "sha256": None, "rows": 0, "dropped_lines": []}},
        "finished_at": "2026-11-25T14:00:00+00:00",
        "advice": None,
    }
    (folder / "training.json").write_text(json.dumps(training | facts), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"recipe_folder": str(data.parent)}), encoding="utf-8")
