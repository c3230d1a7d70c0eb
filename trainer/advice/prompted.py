"""Measuring how far prompting gets: the base as it is, well prompted and constrained, on a task's held-out rows.

These are the arms of `turntable compare` that need no training, asked in the same way through the gateway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import EvaluationError
from trainer.proof.answers import Answer, Journal
from trainer.proof.arms import ArmPlan, Prompts, plan_arms
from trainer.proof.asking import Progress, ask_all
from trainer.proof.candidates import look_up
from trainer.proof.document import ArmKind
from trainer.proof.endpoints import gateway_client
from trainer.proof.freezing import identity
from trainer.proof.items import Item, read_items
from trainer.proof.measures import measure
from trainer.proof.schema import read_schema
from trainer.proof.statistics import Bootstrap, Estimate
from trainer.proof.task import Task, read_task

if TYPE_CHECKING:
    from trainer.proof.structure import Validator

UNTRAINED = (ArmKind.BASE, ArmKind.PROMPTED, ArmKind.CONSTRAINED)


@dataclass(frozen=True)
class PromptedScore:
    """The best that was reached without training; `arms` has every arm's estimate of the metric."""

    task: str
    task_sha256: str
    metric: str
    best: str
    arms: dict[str, Estimate]

    @property
    def estimate(self) -> Estimate:
        """The best arm's."""
        return self.arms[self.best]


async def score_prompted(
    task_file: Path, metric: str | None, *, gateway_url: str, key: str, data_dir: Path, progress: Progress
) -> PromptedScore:
    """Ask the untrained arms every item; raises `EvaluationError` when an item got no answer: a part is no score."""
    task = read_task(task_file).model_copy(update={"arms": (), "adapters": (), "frontier": None, "recorded": None})
    metric = metric or task.gate.metric
    if metric not in task.metric_names:
        raise EvaluationError(f"{task_file} does not measure {metric}; it has {', '.join(task.metric_names)}.")
    validator, items, sha256 = read_schema(task), read_items(task), identity(read_task(task_file)).sha256
    base = look_up([], gateway_url, data_dir).base.model
    plans = [plan for plan in plan_arms(task, base, []) if plan.kind in UNTRAINED]
    answers = data_dir / "advice" / f"{task.name.replace('/', '-')}.answers.jsonl"
    header = {"format": 1, "task_sha256": sha256, "arms": [plan.name for plan in plans]}
    async with gateway_client(gateway_url, key) as gateway, Journal(answers, header, resume=False) as journal:
        given = await ask_all(task, plans, items.items, Prompts(task, items), journal, gateway, progress)
    _refuse_failures(given)
    arms = _estimates(task, metric, plans, items.items, given, validator)
    return PromptedScore(task.name, sha256, metric, max(arms, key=lambda name: arms[name].value), arms)


def _refuse_failures(given: Sequence[Answer]) -> None:
    if failed := [answer for answer in given if answer.error is not None]:
        first = failed[0]
        raise EvaluationError(
            f"{len(failed)} of {len(given)} requests failed, so the prompt has no score; first {first.arm} on "
            f"line {first.line}: {first.error}"
        )


def _estimates(
    task: Task,
    metric: str,
    plans: Sequence[ArmPlan],
    items: Sequence[Item],
    given: Sequence[Answer],
    validator: "Validator | None",
) -> dict[str, Estimate]:
    bootstrap, size = Bootstrap(task.seed), len(items)
    return {
        plan.name: bootstrap.estimate(
            measure(task, items, given[number * size : (number + 1) * size], validator).metrics[metric]
        )
        for number, plan in enumerate(plans)
    }
