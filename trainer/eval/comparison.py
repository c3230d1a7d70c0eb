"""Run one comparison from task to report: resolve versions, collect answers, measure, judge, decide."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import Problem, RecipeError
from trainer.eval.answers import Answer, Journal
from trainer.eval.arms import ArmPlan, Prompts, Served, plan_arms, plan_models, resolve_versions
from trainer.eval.endpoints import endpoint_client, gateway_client
from trainer.eval.examples import EvalSet, read_eval_set
from trainer.eval.forgetting import cross_entropy_at, general_texts
from trainer.eval.freeze import FrozenTask, frozen_at, identity
from trainer.eval.judge import Judge, Judged
from trainer.eval.metrics import ArmSeries, MetricFunction, custom_metric_series, load_function, measure
from trainer.eval.report import ArmKind, ComparisonReport, Examples, Gate, TaskFacts
from trainer.eval.runner import Progress, run_arms
from trainer.eval.statistics import MetricSample
from trainer.eval.summarize import Assembly, ScoredArm
from trainer.eval.task import JUDGE, Task, read_schema, read_task

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from openai import AsyncOpenAI


@dataclass(frozen=True)
class ComparisonRequest:
    """The validated input of a comparison; `only_models` compares models without a verdict."""

    task: Task
    items: EvalSet
    plans: Sequence[ArmPlan]
    served: Served
    frozen: FrozenTask
    frozen_at: str | None
    changed: tuple[str, ...]
    validator: "Draft202012Validator | None"
    function: MetricFunction | None
    only_models: bool

    @property
    def header(self) -> dict[str, Any]:
        """The identity of the comparison, kept with its answers."""
        arms = [[plan.name, plan.kind, plan.model, plan.digest] for plan in self.plans]
        return {"format": 1, "task_sha256": self.frozen.sha256, "arms": arms}


@dataclass(frozen=True)
class ComparisonOutcome:
    """A report, and the problems that keep it from being complete, by test example."""

    report: ComparisonReport
    problems: tuple[Problem, ...]


@dataclass
class _Found:
    """The measured columns, and the problems so far."""

    columns: list[ScoredArm]
    problems: list[Problem] = field(default_factory=list)
    forgotten: MetricSample | None = None


def prepare(
    task_file: Path, *, adapters: Sequence[str], models: Sequence[str], gateway_url: str, data_dir: Path
) -> ComparisonRequest:
    """Read and validate the input of a comparison; raises `RecipeError`, `DataError` or `EvaluationError`."""
    task = read_task(task_file)
    validator, function, items = read_schema(task), load_function(task), read_eval_set(task)
    general_texts(task)
    frozen = identity(task)
    when, changed = frozen_at(task_file, frozen)
    refs = [] if models else list(adapters or task.adapters)
    served = resolve_versions(refs, gateway_url, data_dir)
    base = served.base.model
    plans = plan_models(task, base, models) if models else plan_arms(task, base, served.candidates)
    if not plans:
        raise RecipeError(f"{task_file}: no arm is left to compare; fix arms.")
    return ComparisonRequest(task, items, plans, served, frozen, when, changed, validator, function, bool(models))


async def compare(
    request: ComparisonRequest, *, gateway_url: str, key: str, answers: Path, resume: bool, progress: Progress
) -> ComparisonOutcome:
    """Collect the missing answers, and report; answers are written to disk as they arrive."""
    async with (
        gateway_client(gateway_url, key) as gateway,
        Journal(answers, request.header, resume=resume) as journal,
    ):
        prompts = Prompts(request.task, request.items)
        items = request.items.items
        given = await run_arms(request.task, request.plans, items, prompts, journal, gateway, progress)
        found = _measured(request, prompts, given)
        if request.task.judge and not request.only_models:
            await _judge(request, found, gateway, journal)
        if not request.only_models:
            await _forgetting(request, found, gateway, journal)
    return _report(request, found, answers)


def _measured(request: ComparisonRequest, prompts: Prompts, given: Sequence[Answer]) -> _Found:
    task, items = request.task, request.items.items
    found, size = _Found([]), len(items)
    for number, plan in enumerate(request.plans):
        answers = given[number * size : (number + 1) * size]
        series = measure(task, items, answers, request.validator)
        if request.function:
            own, raised = custom_metric_series(task, request.function, items, answers)
            found.problems += raised
            series = replace(series, metrics=_with(task, series, task.metric_names, _own_name(task), own))
        found.problems += [
            Problem(str(task.data_path), answer.line, f"{plan.name} gave no answer: {answer.error}")
            for answer in answers
            if answer.error is not None
        ]
        found.columns.append(ScoredArm(plan, answers, series, prompts.settings(plan)))
    return found


async def _judge(request: ComparisonRequest, found: _Found, gateway: "AsyncOpenAI", journal: Journal) -> None:
    task, items = request.task, request.items.items
    table = task.judge
    if table is None:
        return
    kinds = {column.plan.name: column.plan.kind for column in found.columns}
    wanted = (ArmKind.PROMPTED, ArmKind.BASE)
    reference = next((name for kind in wanted for name in kinds if kinds[name] is kind), next(iter(kinds)))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(endpoint_client(table, gateway))
        judge = Judge(table, client, journal, task.concurrency)
        judged = await judge.compare(items, {c.plan.name: c.answers for c in found.columns}, reference)
    found.columns = [_with_judge(task, column, judged[column.plan.name]) for column in found.columns]
    if task.gate.metric == JUDGE:
        found.problems += [
            Problem(str(task.data_path), line, f"the judge gave no usable answer on {name}")
            for name, one in judged.items()
            for line in one.unjudged
        ]


def _with_judge(task: Task, column: ScoredArm, judged: Judged) -> ScoredArm:
    metrics = _with(task, column.series, task.metric_names, JUDGE, judged.series)
    settings = {**column.settings, "judge": dict(judged.facts)}
    return replace(column, series=replace(column.series, metrics=metrics), settings=settings)


async def _forgetting(request: ComparisonRequest, found: _Found, gateway: "AsyncOpenAI", journal: Journal) -> None:
    task, base = request.task, request.served.base.model
    texts = general_texts(task)
    candidate = next((plan for plan in request.plans if plan.kind == task.gate.arm), None)
    if not texts or candidate is None or candidate.model == base:
        return
    models = {"base": base, candidate.name: candidate.model}
    measured = await cross_entropy_at(texts, models, base, gateway, journal, task.concurrency)
    found.forgotten = MetricSample.mean_of((measured[candidate.name].features - measured["base"].features)[:, 0])
    found.columns = [
        replace(column, settings={**column.settings, "general_text_cross_entropy": measured[column.plan.name].value})
        if column.plan.name in measured
        else column
        for column in found.columns
    ]


def _report(request: ComparisonRequest, found: _Found, answers: Path) -> ComparisonOutcome:
    task, items = request.task, request.items.items
    assembly = Assembly(task, items, found.columns)
    if request.only_models:
        gate = Gate(verdict=None, summary="There is no verdict: only models were asked (--models).")
    elif found.problems:
        gate = Gate(verdict=None, summary=_partial(found.problems))
    else:
        gate = assembly.gate(found.forgotten, frozen=request.frozen_at is not None, changed=request.changed)
    report = ComparisonReport(
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        complete=not found.problems,
        task=TaskFacts(
            name=task.name,
            sha256=request.frozen.sha256,
            items=len(items),
            frozen_at=request.frozen_at,
            changed=request.changed,
        ),
        base=request.served.base,
        arms=assembly.arms,
        differences=() if request.only_models else assembly.differences(),
        gate=gate,
        examples=Examples() if request.only_models else assembly.examples(),
        answers=answers.name,
    )
    return ComparisonOutcome(report, tuple(found.problems))


def _partial(problems: Sequence[Problem]) -> str:
    return f"There is no verdict: {len(problems)} results are missing; fix the cause and continue with --resume."


def _with(task: Task, series: ArmSeries, order: Sequence[str], name: str, one: MetricSample) -> dict[str, MetricSample]:
    """Return the metrics with one more, in the order of the task."""
    metrics = {**series.metrics, name: one}
    return {metric: metrics[metric] for metric in order if metric in metrics}


def _own_name(task: Task) -> str:
    return str(task.metric_function).partition(":")[2]
