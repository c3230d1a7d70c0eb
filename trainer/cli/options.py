"""Options that the trainer's commands share, and the one place where its errors become exit codes."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.errors import DataError, Problem, TrainerError

SHOWN_PROBLEMS = 50

DataDir = Annotated[
    Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where runs, reports and the embedded base model live.")
]
Gateway = Annotated[str, typer.Option(envvar="TURNTABLE_GATEWAY_URL", help="The gateway's address.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DEFAULT_DATA_DIR = Path("var")
DEFAULT_GATEWAY = "http://127.0.0.1:8080"


@contextmanager
def exit_codes(interrupted: str) -> Iterator[None]:
    """Bad input and failed runs end with one sentence and code 2, Ctrl-C with `interrupted` and code 130."""
    try:
        yield
    except DataError as error:
        show_problems(error.problems)
        complain(f"the data has {count(len(error.problems), 'problem')}; mend it and run again.")
        sys.exit(2)
    except TrainerError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo(f"\n{interrupted}", err=True)
        sys.exit(130)


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
