"""Options that the trainer's commands share, and the one place where its errors become exit codes."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.errors import DataError, EvaluationError, Interrupted, Problem, TrainerError

SHOWN_PROBLEMS = 50

DEFAULT_DATA_DIR = Path("var")
DEFAULT_GATEWAY = ""
"""No address means to look it up."""


def _address_found(context: typer.Context, value: str) -> str:
    from adapters.admin_client import gateway_address

    return value or gateway_address(Path(context.params.get("data_dir") or DEFAULT_DATA_DIR))


# Eager: the gateway's address is looked up in it.
DataDir = Annotated[
    Path,
    typer.Option(
        envvar="TURNTABLE_DATA_DIR", is_eager=True, help="Where runs, reports and the embedded base model live."
    ),
]
Gateway = Annotated[
    str,
    typer.Option(
        envvar="TURNTABLE_GATEWAY_URL",
        callback=_address_found,
        show_default="that of the gateway on the data directory",
        help="The gateway's address.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
OverrideReason = Annotated[
    str | None, typer.Option("--override", metavar="REASON", help="Go live without a verdict that counts; on record.")
]
OverrideBy = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who answers for the override.")]
AdviceFile = Annotated[
    Path | None, typer.Option("--advice", help="The advice this run goes by; the newest for the recipe's name.")
]
DespiteAdvice = Annotated[
    str | None, typer.Option(metavar="REASON", help="Train although the advice says otherwise; the run records why.")
]


@contextmanager
def exit_codes(interrupted: str) -> Iterator[None]:
    """Bad input and failed runs end with one sentence and code 2, Ctrl-C with `interrupted` and code 130."""
    try:
        yield
    except DataError as error:
        show_problems(error.problems)
        complain(f"the data has {count(len(error.problems), 'problem')}; mend it and run again.")
        sys.exit(2)
    except Interrupted as stopped:
        typer.echo(f"\n{stopped}; its checkpoint is kept, continue with --resume", err=True)
        sys.exit(130)
    except TrainerError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo(f"\n{interrupted}", err=True)
        sys.exit(130)


def inference_key(data_dir: Path) -> str:
    """A tenant's key from the environment, else the operator's, else what a local gateway left."""
    from adapters.admin_client import KEY_FILE

    for name in ("TURNTABLE_API_KEY", "TURNTABLE_ADMIN_KEY"):
        if key := os.environ.get(name):
            return key
    path = data_dir / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EvaluationError(f"there is no key: set TURNTABLE_API_KEY, or make {path} readable.") from error


@contextmanager
def asking() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, told how many of how many answers are in."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("asking", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def show_problems(problems: Sequence[Problem]) -> None:
    """Print problems to stderr, one a line; when there are very many, one line for all rows with the same one."""
    lines = [str(problem) for problem in problems]
    if len(lines) > SHOWN_PROBLEMS:
        lines = list(_grouped(problems))
    for line in lines[:SHOWN_PROBLEMS]:
        typer.echo(line, err=True)
    if len(lines) > SHOWN_PROBLEMS:
        typer.echo(f"... and {len(lines) - SHOWN_PROBLEMS:,} more; --json lists all", err=True)


def _grouped(problems: Sequence[Problem]) -> Iterator[str]:
    firsts, counts = dict[tuple[str, str], Problem](), Counter[tuple[str, str]]()
    for problem in problems:
        firsts.setdefault((problem.file, problem.message), problem)
        counts[problem.file, problem.message] += 1
    for key, first in firsts.items():
        yield f"{first} (and {count(counts[key] - 1, 'more row')} alike)" if counts[key] > 1 else str(first)


def complain(sentence: str) -> None:
    """Print an error to stderr."""
    typer.echo(f"error: {sentence}", err=True)


def count(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(document: Any) -> None:
    """Print a document as JSON to stdout, for programs."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
