"""What `data check` finds in files, as advice keeps it and as the report of a decision shows it.

Measuring how far prompting gets: the base as it is, well prompted and constrained, on a task's held-out rows.

These are the arms of `turntable compare` that need no training, asked in the same way through the gateway.

What advice need not be told, because it can be measured: the data, and the prompted base on held-out rows.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from trainer.data.findings import RED
from trainer.data.findings import Task as Kind
from trainer.data.lint import LintOptions, lint_files
from trainer.errors import EvaluationError, RecipeError
from trainer.eval.answers import Answer, Journal
from trainer.eval.arms import ArmPlan, Prompts, plan_arms, resolve_versions
from trainer.eval.endpoints import gateway_client
from trainer.eval.examples import EvalExample, read_eval_set
from trainer.eval.freeze import identity
from trainer.eval.metrics import measure
from trainer.eval.report import ArmKind
from trainer.eval.runner import Progress, run_arms
from trainer.eval.statistics import Bootstrap, MetricEstimate
from trainer.eval.task import Task, read_schema, read_task

if TYPE_CHECKING:
    from trainer.eval.examples import Validator
if TYPE_CHECKING:
    from trainer.eval.runner import Progress


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckedFile(_Part):
    """A file as it was when it was checked."""

    name: str
    rows: int
    sha256: str


class FindingSummary(_Part):
    """One finding without its places, which may hold what nobody should repeat."""

    grade: Literal["green", "amber", "red"]
    name: str
    count: int
    message: str


class DataFacts(_Part):
    """The verdict on some files; `examples` counts the rows of the first without copies, `smallest_class` by class."""

    verdict: Literal["green", "amber", "red"]
    files: tuple[CheckedFile, ...]
    findings: tuple[FindingSummary, ...]
    classes: dict[str, dict[str, int]]
    examples: int
    smallest_class: int | None

    @property
    def labels_agree(self) -> bool:
        """Whether the rows can teach one thing: none unusable, at most one in a hundred against another."""
        against = sum(one.count for one in self.findings if one.name in _AGAINST)
        is_broken = any(one.grade == RED and one.name != "size" for one in self.findings)
        return not is_broken and against <= TOLERATED_AGAINST * self.examples


TOLERATED_AGAINST = 0.01
# "turned_preferences" is the name in advice that was kept before.
_AGAINST = ("contradictions", "near_contradictions", "conflicting_preferences", "turned_preferences")


def check_data(paths: Sequence[Path], kind: Kind | None = None) -> DataFacts:
    """Check files, the one to train on first; raises `RecipeError` when one cannot be read."""
    checkup = lint_files(paths, LintOptions(task=kind))
    if unreadable := [file for file in checkup.files if file.unreadable]:
        raise RecipeError(f"{unreadable[0].path} cannot be read; give the path of a JSON Lines file.")
    columns = checkup.columns
    different = set(columns.row[columns.file == 0].tolist())
    whole = [balance for balance in checkup.balances if balance.field is None]
    balances = whole or list(checkup.balances)[:1]
    return DataFacts(
        verdict=checkup.verdict,
        files=tuple(CheckedFile(name=file.path.name, rows=file.rows, sha256=file.sha256) for file in checkup.files),
        findings=tuple(
            FindingSummary(grade=f.grade, name=f.name, count=f.count, message=f.message) for f in checkup.findings
        ),
        classes={balance.field or "the whole output": dict(balance.counts) for balance in checkup.balances},
        examples=len(different),
        smallest_class=balances[0].smallest if balances else None,
    )


UNTRAINED = (ArmKind.BASE, ArmKind.PROMPTED, ArmKind.CONSTRAINED)


@dataclass(frozen=True)
class PromptedScore:
    """The best that was reached without training; `arms` has every arm's estimate of the metric."""

    task: str
    task_sha256: str
    metric: str
    best: str
    arms: dict[str, MetricEstimate]

    @property
    def estimate(self) -> MetricEstimate:
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
    validator, items, sha256 = read_schema(task), read_eval_set(task), identity(read_task(task_file)).sha256
    base = resolve_versions([], gateway_url, data_dir).base.model
    plans = [plan for plan in plan_arms(task, base, []) if plan.kind in UNTRAINED]
    answers = data_dir / "advice" / f"{task.name.replace('/', '-')}.answers.jsonl"
    header = {"format": 1, "task_sha256": sha256, "arms": [plan.name for plan in plans]}
    async with gateway_client(gateway_url, key) as gateway, Journal(answers, header, resume=False) as journal:
        given = await run_arms(task, plans, items.items, Prompts(task, items), journal, gateway, progress)
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
    items: Sequence[EvalExample],
    given: Sequence[Answer],
    validator: "Validator | None",
) -> dict[str, MetricEstimate]:
    bootstrap, size = Bootstrap(task.seed), len(items)
    return {
        plan.name: bootstrap.estimate(
            measure(task, items, given[number * size : (number + 1) * size], validator).metrics[metric]
        )
        for number, plan in enumerate(plans)
    }


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
    score = asyncio.run(
        score_prompted(task_file, metric, gateway_url=gateway_url, key=key, data_dir=data_dir, progress=progress)
    )
    best = score.estimate
    low, high = best.interval
    facts = {"metric": score.metric, "prompt_score": best.value, "prompt_tried": True}
    scores = ", ".join(f"{name} {one.value:.1%}" for name, one in score.arms.items())
    sentence = f"{score.metric} on {best.of} items: {scores}; {score.best} lies between {low:.1%} and {high:.1%}"
    seen = {
        "task": score.task,
        "task_sha256": score.task_sha256,
        "arms": {
            name: {"value": one.value, "interval_95": one.interval, "of": one.of} for name, one in score.arms.items()
        },
    }
    return facts, {"prompt": seen, "sentences": [sentence]}
