"""`turntable compare TASK`: evaluate base model, prompted base and adapters on test data, with a promotion verdict.

`turntable compare freeze TASK` records a hash of everything that the task names, before training.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trainer.cli.options import address_of, inference_key, show_problems, trainer_app
from trainer.errors import EvaluationError, RecipeError
from trainer.eval.report import ComparisonReport, VerdictWord
from turntable.console import FAILED, CommandError, Group, print_json, progress
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, DataDir, Gateway

if TYPE_CHECKING:
    from trainer.eval.comparison import ComparisonOutcome, ComparisonRequest

_REPORT, _ANSWERS = "report.json", "answers.jsonl"


class _TaskFirst(Group):
    """Treats `compare TASK` as `compare run TASK`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` before an argument that is not a command."""
        named = bool(args) and (args[0] in self.commands or args[0] in ("--help", "-h"))
        return super().parse_args(ctx, args if named or not args else ["run", *args])


app = trainer_app(
    help="Evaluate an adapter against its base model on a frozen task.", no_args_is_help=True, cls=_TaskFirst
)

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task file (TOML).")]


@dataclass(frozen=True, slots=True)
class Requirement:
    """The minimum of one metric of one arm."""

    arm: str
    metric: str
    least: float


@app.command("run", interrupted="interrupted; the answers are kept, continue with --resume")
def compare_arms(
    task_file: TaskFile,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="The adapter to evaluate, a name or name@version; repeatable; replaces the task's adapters."),
    ] = None,
    models: Annotated[str, typer.Option(help="Evaluate only these models, without a verdict, comma-separated.")] = "",
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ARM:]METRIC=VALUE",
            help="Minimum of a metric of an arm (the last by default), like schema_valid=0.9; exit code 1 if missed.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file; - prints it instead of the table.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the latest unfinished comparison.")] = False,
    record_it: Annotated[
        bool, typer.Option("--record", help="Record the verdict on the gateway, for the promotion gate.")
    ] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Evaluate every arm on the test data; exit code 0 for PROMOTE, 1 for another verdict, 2 for none."""
    from trainer.eval.comparison import prepare
    from trainer.eval.terminal import print_report

    gateway = address_of(gateway, data_dir)
    request = prepare(task_file, adapters=adapter or (), models=_names(models), gateway_url=gateway, data_dir=data_dir)
    required = [_requirement(text, request) for text in require or ()]
    to_stdout = json_out is not None and str(json_out) == "-"
    report_path, answers = _places(request, None if to_stdout else json_out, data_dir, resume=resume)
    outcome = _ask(request, gateway, inference_key(data_dir), answers, resume=resume)
    outcome.report.save(report_path)
    if to_stdout:
        print_json(outcome.report.as_json())
    else:
        print_report(outcome.report, Console())
    typer.echo(f"report {report_path}, every answer {answers}", err=True)
    if record_it and not outcome.problems:
        _record(outcome.report, gateway, data_dir)
    if not _passes(outcome, required):
        raise typer.Exit(FAILED)


@app.command("freeze", interrupted="interrupted; nothing was frozen")
def freeze_task(task_file: TaskFile) -> None:
    """Record a hash of the task and everything that it names, before training."""
    from trainer.eval.examples import read_eval_set
    from trainer.eval.freeze import freeze
    from trainer.eval.task import read_schema, read_task

    task = read_task(task_file)
    read_schema(task)
    items = read_eval_set(task).items
    path, frozen = freeze(task_file, task)
    typer.echo(f"{path}: {len(items)} items, {frozen.sha256}")


def _names(models: str) -> list[str]:
    names = [name.strip() for name in models.split(",") if name.strip()]
    if (models and not names) or len(set(names)) != len(names):
        raise EvaluationError("--models names no model, or one twice; write for example --models base,support-triage.")
    return names


def _places(request: "ComparisonRequest", json_out: Path | None, data_dir: Path, *, resume: bool) -> tuple[Path, Path]:
    """Paths of the report and of its answers."""
    if json_out is not None:
        return json_out, json_out.with_suffix(".answers.jsonl")
    folder = data_dir / "comparisons"
    name = request.task.name.replace("/", "-")
    if resume:
        unfinished = [path for path in sorted(folder.glob(f"{name}-*")) if not _finished(path)]
        if not unfinished:
            raise EvaluationError(f"{folder} has no unfinished comparison of {name}; start one without --resume.")
        return unfinished[-1] / _REPORT, unfinished[-1] / _ANSWERS
    place = folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z"
    return place / _REPORT, place / _ANSWERS


def _finished(folder: Path) -> bool:
    report = folder / _REPORT
    return not (folder / _ANSWERS).is_file() or (report.is_file() and ComparisonReport.read(report).complete)


def _ask(request: "ComparisonRequest", gateway: str, key: str, answers: Path, *, resume: bool) -> "ComparisonOutcome":
    from trainer.eval.comparison import compare

    with progress("evaluating") as shown:
        return asyncio.run(
            compare(request, gateway_url=gateway, key=key, answers=answers, resume=resume, progress=shown.update)
        )


def _record(report: ComparisonReport, gateway: str, data_dir: Path) -> None:
    from trainer.eval.endpoints import record_verdict

    version = record_verdict(report, gateway, data_dir)
    typer.echo(f"recorded {report.gate.verdict} on {version}", err=True)


def _passes(outcome: "ComparisonOutcome", required: Sequence[Requirement]) -> bool:
    """Whether the verdict is PROMOTE, or there is none, and all requirements are met; print the missed ones."""
    report = outcome.report
    if outcome.problems:
        show_problems(outcome.problems)
        raise CommandError(report.gate.summary)
    missed = [sentence for one in required for sentence in _missed(report, one)]
    for sentence in missed:
        typer.echo(f"failed: {sentence}", err=True)
    return not missed and report.gate.verdict in (None, VerdictWord.PROMOTE)


def _missed(report: ComparisonReport, wanted: Requirement) -> list[str]:
    value = report.arm(wanted.arm).metrics[wanted.metric].value
    if value >= wanted.least:
        return []
    return [f"{wanted.arm}: {wanted.metric} is {value:.3f}, below the required {wanted.least:g}"]


def _requirement(text: str, request: "ComparisonRequest") -> Requirement:
    metric_of, equals, threshold = text.rpartition("=")
    arm, colon, metric = metric_of.rpartition(":")
    known, arms = request.task.metric_names, [plan.name for plan in request.plans]
    try:
        requirement = Requirement(arm if colon else arms[-1], metric, float(threshold))
    except ValueError as error:
        raise RecipeError(f"--require {text}: write a metric and its minimum, like schema_valid=0.9.") from error
    if not equals or metric not in known:
        raise RecipeError(f"--require {text}: there is no metric {metric!r}; use {', '.join(known)}.")
    if requirement.arm not in arms:
        raise RecipeError(f"--require {text}: {requirement.arm} is not an arm; there are {', '.join(arms)}.")
    return requirement
