"""`turntable compare TASK`: base, prompted base, adapter and more on held-out rows, and whether it may go live.

`turntable compare freeze TASK` writes the hash of everything that the task names, before training.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    DataDir,
    Gateway,
    asking,
    complain,
    exit_codes,
    inference_key,
    print_json,
    show_problems,
)
from trainer.errors import EvaluationError, RecipeError
from trainer.eval.report import Report, VerdictWord

if TYPE_CHECKING:
    from trainer.eval.comparison import ComparisonOutcome, ComparisonRequest

_REPORT, _ANSWERS = "report.json", "answers.jsonl"


class _TaskFirst(TyperGroup):
    """Takes `compare TASK` for `compare run TASK`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name before what is no command."""
        named = bool(args) and (args[0] in self.commands or args[0] in ("--help", "-h"))
        return super().parse_args(ctx, args if named or not args else ["run", *args])


app = typer.Typer(help="Prove on a frozen task whether an adapter helps.", no_args_is_help=True, cls=_TaskFirst)

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task, a TOML file.")]


@dataclass(frozen=True, slots=True)
class Requirement:
    """The least value that one metric of one arm must have."""

    arm: str
    metric: str
    least: float


@app.command("run")
def compare_arms(
    task_file: TaskFile,
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="The adapter to decide about, a name or ref; repeatable, instead of the task's adapters."),
    ] = None,
    models: Annotated[
        str, typer.Option(help="Ask only these models, as they are and without a verdict, separated by commas.")
    ] = "",
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ARM:]METRIC=VALUE",
            help="A value that the arm, or else the last one, must reach, like schema_valid=0.9; exit code 1 if not.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the report here; - prints it instead of the table.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the latest comparison that was not finished.")
    ] = False,
    record_it: Annotated[
        bool, typer.Option("--record", help="Bring the verdict to the gateway, where promoting asks for it.")
    ] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Ask every arm every held-out row and decide; exit code 0 PROMOTE, 1 another verdict, 2 none."""
    with exit_codes("interrupted; the answers are kept, go on with --resume"):
        from trainer.eval.comparison import prepare
        from trainer.eval.terminal import print_report

        question = prepare(
            task_file, adapters=adapter or (), models=_names(models), gateway_url=gateway, data_dir=data_dir
        )
        required = [_requirement(text, question) for text in require or ()]
        to_stdout = json_out is not None and str(json_out) == "-"
        report_path, answers = _places(question, None if to_stdout else json_out, data_dir, resume=resume)
        outcome = _ask(question, gateway, inference_key(data_dir), answers, resume=resume)
        outcome.report.save(report_path)
        if to_stdout:
            print_json(outcome.report.as_json())
        else:
            print_report(outcome.report, Console())
        typer.echo(f"report {report_path}, every answer {answers}", err=True)
        if record_it and not outcome.problems:
            _record(outcome.report, gateway, data_dir)
    sys.exit(_code(outcome, required))


@app.command("freeze")
def freeze_task(task_file: TaskFile) -> None:
    """Write the hash of everything that a task names, before training."""
    with exit_codes("interrupted; nothing was frozen"):
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


def _places(question: "ComparisonRequest", json_out: Path | None, data_dir: Path, *, resume: bool) -> tuple[Path, Path]:
    """Where the report and its answers go."""
    if json_out is not None:
        return json_out, json_out.with_suffix(".answers.jsonl")
    folder = data_dir / "comparisons"
    name = question.task.name.replace("/", "-")
    if resume:
        begun = [path for path in sorted(folder.glob(f"{name}-*")) if not _finished(path)]
        if not begun:
            raise EvaluationError(f"{folder} holds no unfinished comparison of {name}; begin one, without --resume.")
        return begun[-1] / _REPORT, begun[-1] / _ANSWERS
    place = folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z"
    return place / _REPORT, place / _ANSWERS


def _finished(folder: Path) -> bool:
    report = folder / _REPORT
    return not (folder / _ANSWERS).is_file() or (report.is_file() and Report.read(report).complete)


def _ask(question: "ComparisonRequest", gateway: str, key: str, answers: Path, *, resume: bool) -> "ComparisonOutcome":
    from trainer.eval.comparison import compare

    with asking() as progress:
        return asyncio.run(
            compare(question, gateway_url=gateway, key=key, answers=answers, resume=resume, progress=progress)
        )


def _record(report: Report, gateway: str, data_dir: Path) -> None:
    from trainer.eval.endpoints import record_verdict

    version = record_verdict(report, gateway, data_dir)
    typer.echo(f"recorded {report.gate.verdict} on {version}", err=True)


def _code(outcome: "ComparisonOutcome", required: Sequence[Requirement]) -> int:
    report = outcome.report
    if outcome.problems:
        show_problems(outcome.problems)
        complain(report.gate.summary)
        return 2
    missed = [sentence for one in required for sentence in _missed(report, one)]
    for sentence in missed:
        typer.echo(f"failed: {sentence}", err=True)
    return 1 if missed or report.gate.verdict not in (None, VerdictWord.PROMOTE) else 0


def _missed(report: Report, wanted: Requirement) -> list[str]:
    value = report.arm(wanted.arm).metrics[wanted.metric].value
    if value >= wanted.least:
        return []
    return [f"{wanted.arm}: {wanted.metric} is {value:.3f}, below the required {wanted.least:g}"]


def _requirement(text: str, question: "ComparisonRequest") -> Requirement:
    metric_of, equals, threshold = text.rpartition("=")
    arm, colon, metric = metric_of.rpartition(":")
    known, arms = question.task.metric_names, [plan.name for plan in question.plans]
    try:
        requirement = Requirement(arm if colon else arms[-1], metric, float(threshold))
    except ValueError as error:
        raise RecipeError(f"--require {text}: write a metric and its least value, like schema_valid=0.9.") from error
    if not equals or metric not in known:
        raise RecipeError(f"--require {text}: there is no metric {metric!r}; use {', '.join(known)}.")
    if requirement.arm not in arms:
        raise RecipeError(f"--require {text}: {requirement.arm} is no arm; asked are {', '.join(arms)}.")
    return requirement
