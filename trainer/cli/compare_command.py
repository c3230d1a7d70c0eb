"""`turntable compare TASK --models base,mine`: the same held-out questions to several models, scored side by side."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from adapters.connection import KEY_FILE
from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    DataDir,
    Gateway,
    complain,
    exit_codes,
    print_json,
    show_problems,
)
from trainer.errors import EvaluationError, Problem, RecipeError
from trainer.evaluate import Comparison, Requirement, compare, unmet
from trainer.report import as_json, default_path, print_table, save
from trainer.task import RESERVED, Task, read_task

app = typer.Typer(help="Score models on a held-out file through the gateway.", no_args_is_help=True)


@app.command()
def compare_models(
    task_file: Annotated[Path, typer.Argument(metavar="TASK", help="The task, a TOML file.")],
    models: Annotated[str, typer.Option(help="Models to ask, separated by commas; adapters by name or ref.")],
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[MODEL:]RATE=VALUE",
            help="A rate the model, or else the last one, must reach, like schema_valid=0.9; exit code 1 if not.",
        ),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write the report here; - prints it instead of the table.")
    ] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Ask every model every held-out row and compare the answers; failed requests leave no verdict (exit code 2)."""
    with exit_codes("interrupted; nothing was scored"):
        task, names = read_task(task_file), _names(models)
        required = [_requirement(text, task, names) for text in require or ()]
        comparison = _ask(task, names, gateway, _key(data_dir))
        to_stdout = json_out is not None and str(json_out) == "-"
        path = default_path(comparison, data_dir) if json_out is None or to_stdout else json_out
        answers = save(comparison, path)
        if to_stdout:
            print_json(as_json(comparison))
        else:
            print_table(comparison, Console())
        typer.echo(f"report {path}, every answer {answers}", err=True)
    sys.exit(_verdict(comparison, required))


def _names(models: str) -> list[str]:
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise EvaluationError("--models names no model, or one twice; write for example --models base,support-triage.")
    return names


def _ask(task: Task, names: Sequence[str], gateway: str, key: str) -> Comparison:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("asking", total=None)

        def on_answer(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return compare(task, names, gateway_url=gateway, key=key, on_answer=on_answer)


def _verdict(comparison: Comparison, required: Sequence[Requirement]) -> int:
    if failures := comparison.failures:
        data = comparison.task.data_path
        show_problems([Problem(str(data), a.line, f"{a.model} gave no answer: {a.error}") for a in failures])
        complain(f"{len(failures)} of {len(comparison.answers)} requests failed, so there is no verdict; ask again.")
        return 2
    missed = unmet(comparison, required)
    for sentence in missed:
        typer.echo(f"failed: {sentence}", err=True)
    return 1 if missed else 0


def _requirement(text: str, task: Task, models: Sequence[str]) -> Requirement:
    rate_of, equals, threshold = text.rpartition("=")
    model, colon, rate = rate_of.rpartition(":")
    known = (*RESERVED, *task.fields)
    try:
        requirement = Requirement(model if colon else models[-1], rate, float(threshold))
    except ValueError as error:
        raise RecipeError(f"--require {text}: write a rate and its least value, like schema_valid=0.9.") from error
    if not equals or rate not in known:
        raise RecipeError(f"--require {text}: there is no rate {rate!r}; use {', '.join(known)}.")
    if requirement.model not in models:
        raise RecipeError(f"--require {text}: {requirement.model} is not among --models.")
    return requirement


def _key(data_dir: Path) -> str:
    """A tenant's key from the environment, else the operator's, else what a local gateway left."""
    for name in ("TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"):
        if key := os.environ.get(name):
            return key
    path = data_dir / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EvaluationError(f"there is no key: set TURNTABLE_API_KEY, or make {path} readable.") from error
