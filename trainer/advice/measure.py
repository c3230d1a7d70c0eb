"""What advice need not be told, because it can be measured: the data, and the prompted base on held-out rows."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.advice.data_facts import check_data
from trainer.data.sizes import Task as Kind

if TYPE_CHECKING:
    from trainer.proof.asking import Progress


def measure_data(paths: Sequence[Path], kind: Kind | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts of a case that its files tell, and what was seen; the first file is the one to train on."""
    data = check_data(paths, kind)
    facts: dict[str, Any] = {"examples": data.examples, "labels_agree": data.labels_agree}
    if data.smallest_class is not None:
        facts["smallest_class"] = data.smallest_class
    sentence = f"data check of {data.files[0].name}: {data.verdict}, {data.examples:,} different rows"
    return facts, {"data": data.model_dump(mode="json"), "sentences": [sentence]}


def measure_prompt(
    task_file: Path, metric: str | None, *, gateway_url: str, key: str, data_dir: Path, progress: "Progress"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The prompted base's score as facts of a case, and what was seen; raises `EvaluationError`."""
    from trainer.advice.prompted import score_prompted

    score = asyncio.run(
        score_prompted(task_file, metric, gateway_url=gateway_url, key=key, data_dir=data_dir, progress=progress)
    )
    best = score.estimate
    low, high = best.interval
    facts = {"metric": score.metric, "prompt_score": best.value, "prompt_tried": True}
    told = ", ".join(f"{name} {one.value:.1%}" for name, one in score.arms.items())
    sentence = f"{score.metric} on {best.of} items: {told}; {score.best} lies between {low:.1%} and {high:.1%}"
    seen = {
        "task": score.task,
        "task_sha256": score.task_sha256,
        "arms": {
            name: {"value": one.value, "interval_95": one.interval, "of": one.of} for name, one in score.arms.items()
        },
    }
    return facts, {"prompt": seen, "sentences": [sentence]}
