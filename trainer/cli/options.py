"""How the trainer's commands end, and what several of them ask for: advice options, an API key, problems in data."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.errors import DataError, EvaluationError, Interrupted, Problem, TrainerError
from turntable.console import INTERRUPTED, App, CommandError, count

MAX_PROBLEMS = 50
"""Problems printed one a line; more are grouped by message."""

AdviceFile = Annotated[
    Path | None, typer.Option("--advice", help="The advice to follow.", show_default="the newest of the recipe's name")
]
DespiteAdvice = Annotated[
    str | None, typer.Option(metavar="REASON", help="Train against the advice; REASON is recorded with the run.")
]


def trainer_app(**settings: Any) -> App:
    """An app whose commands end with one sentence for every `TrainerError`."""
    return App(errors=(TrainerError,), explain=_explain, **settings)


def _explain(error: Exception) -> CommandError:
    if isinstance(error, DataError):
        sentence = f"the data has {count(len(error.problems), 'problem')}; fix it and run again."
        return CommandError(sentence, details=problem_lines(error.problems))
    if isinstance(error, Interrupted):
        return CommandError(f"{error}; its checkpoint is kept, continue with --resume", exit_code=INTERRUPTED)
    return CommandError(str(error))


def address_of(gateway: str, data_dir: Path) -> str:
    """The gateway's address: as given, else that of the gateway on the data directory, else the default."""
    from adapters.admin_client import gateway_address

    return gateway_address(data_dir, gateway)


def inference_key(data_dir: Path) -> str:
    """The API key from TURNTABLE_API_KEY or TURNTABLE_ADMIN_KEY, else the admin key in the data directory."""
    from adapters.admin_client import KEY_FILE

    for name in ("TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"):
        if key := os.environ.get(name):
            return key
    path = data_dir / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EvaluationError(f"there is no key: set TURNTABLE_API_KEY, or make {path} readable.") from error


def show_problems(problems: Sequence[Problem]) -> None:
    """Print problems to standard error, one a line; from `MAX_PROBLEMS` on, one line for all rows with the same one."""
    for line in problem_lines(problems):
        typer.echo(line, err=True)


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """At most `MAX_PROBLEMS` lines on problems, and a last one when there are more."""
    lines = [str(problem) for problem in problems]
    if len(lines) > MAX_PROBLEMS:
        lines = list(_grouped(problems))
    more = [f"... and {len(lines) - MAX_PROBLEMS:,} more; --json lists all"] if len(lines) > MAX_PROBLEMS else []
    return lines[:MAX_PROBLEMS] + more


def _grouped(problems: Sequence[Problem]) -> Iterator[str]:
    firsts, counts = dict[tuple[str, str], Problem](), Counter[tuple[str, str]]()
    for problem in problems:
        firsts.setdefault((problem.file, problem.message), problem)
        counts[problem.file, problem.message] += 1
    for key, first in firsts.items():
        yield f"{first} (and {count(counts[key] - 1, 'more row')} alike)" if counts[key] > 1 else str(first)
