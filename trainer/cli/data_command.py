"""`turntable data …`: look at training data before anything is trained on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from trainer.cli import data_preview, data_report
from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    AsJson,
    DataDir,
    exit_codes,
    print_json,
    show_problems,
)
from trainer.data.convert import COLUMN_ROLES
from trainer.data.estimate import Hardware, Machine, parameters_of
from trainer.data.findings import AMBER, RED, Task
from trainer.data.lint import LintOptions, lint_files
from trainer.data.loaders import Shape
from trainer.data.prepare import Policy, prepare
from trainer.data.rendering import first_rows, render_rows
from trainer.data.split import SplitPlan, write_split
from trainer.errors import RunError
from trainer.training.base import Base, find_base
from trainer.training.publish import other_tokens
from trainer.training.recipe import EMBEDDED

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer

app = typer.Typer(help="Check, convert and preview training data.", no_args_is_help=True)


@app.command("check")
def check(
    files: Annotated[
        list[Path], typer.Argument(help="JSON Lines: the file to train on first, then the held-out ones.")
    ],
    base_model: Annotated[
        str | None, typer.Option(help="Measure token lengths: `embedded`, a model's folder or a hub name.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="The recipe's max_length.")] = 1024,
    epochs: Annotated[int, typer.Option(min=1, help="The recipe's num_train_epochs.")] = 3,
    task: Annotated[Task | None, typer.Option(help="What the data is for; its size is judged by it.")] = None,
    label_field: Annotated[str | None, typer.Option(help="The field of JSON outputs that holds the class.")] = None,
    group_field: Annotated[str | None, typer.Option(help="The row's field that must not be in two files.")] = None,
    similarity: Annotated[float, typer.Option(min=0.5, max=1.0, help="From where on inputs are near copies.")] = 0.8,
    usd_per_hour: Annotated[float | None, typer.Option(min=0, help="What the machine costs.")] = None,
    tokens_per_s: Annotated[float | None, typer.Option(min=0.001, help="How fast the machine trains.")] = None,
    hardware: Annotated[
        Hardware | None, typer.Option(help="Estimate for this machine instead of the one at hand.")
    ] = None,
    parameters_b: Annotated[
        float | None, typer.Option(min=0.001, help="Billions of parameters of a base that is not here, to estimate by.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Amber fails too.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Find everything that is wrong with files before a run, in one pass; exit code 1 when the verdict is red."""
    with exit_codes("interrupted"):
        base = _base(base_model, data_dir) if base_model else None
        renderer, name = (_renderer(base), base.name) if base else (None, None)
        size = round(parameters_b * 1e9) if parameters_b else parameters_of(base.directory) if base else None
        machine = Machine(tokens_per_s, hardware, size)
        rules = (max_length, epochs, task, label_field, group_field, similarity, usd_per_hour, machine)
        wanted = LintOptions(renderer, name, data_dir / "runs", *rules)
        checkup = lint_files(files, wanted)
    print_json(data_report.as_json(checkup)) if as_json else data_report.show(checkup)
    if any(file.unreadable for file in checkup.files):
        sys.exit(2)
    if checkup.verdict == RED or (strict and checkup.verdict == AMBER):
        sys.exit(1)


def _base(base_model: str, data_dir: Path) -> Base:
    return find_base(base_model, relative_to=Path(), data_dir=data_dir, console=Console(stderr=True))


def _renderer(base: Base) -> "Renderer":
    from trainer.training.loss_mask import Renderer

    return Renderer.load(base.directory)


@app.command("prepare")
def convert(
    file: Annotated[Path, typer.Argument(help="JSON Lines, a JSON array, CSV, TSV or Parquet, also packed with gzip.")],
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write; the account goes beside it.")],
    shape: Annotated[
        Shape | None, typer.Option("--from", help="The rows' shape; without it each row is taken as it looks.")
    ] = None,
    pii: Annotated[
        Literal["redact", "drop", "keep"], typer.Option(help="What to do with secrets and personal data.")
    ] = "redact",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=ROLE,...", help="Which fields are said by whom, as in question=user,answer=assistant."
        ),
    ] = None,
    rated: Annotated[
        Literal["drop", "pairs", "keep"],
        typer.Option(help="What to do with rows that say that their answer is bad; pairs sets them against good ones."),
    ] = "drop",
    duplicates: Annotated[
        Literal["exact", "near", "keep"], typer.Option(help="Which copies to leave out; near ones must answer alike.")
    ] = "exact",
    similarity: Annotated[float, typer.Option(min=0.5, max=1.0, help="From where on inputs are near copies.")] = 0.8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert and clean a file: what is redacted, trimmed or left out is named, row by row, in an account beside it."""
    with exit_codes("interrupted; nothing was written"):
        policy = Policy(pii, duplicates, rated, similarity)
        account = prepare(file, out, policy, shape=shape, columns=_columns(columns), force=force)
    if as_json:
        print_json(data_report.account_json(account))
    else:
        data_report.show_account(account)


def _columns(text: str | None) -> dict[str, str] | None:
    """The roles of a table's columns as they were typed."""
    if text is None:
        return None
    roles = {}
    for part in text.split(","):
        name, _, role = (piece.strip() for piece in part.rpartition("="))
        if not name or role not in COLUMN_ROLES or name in roles:
            raise RunError(f"--columns: {part!r} is no NAME=ROLE; the roles are {', '.join(COLUMN_ROLES)}.")
        roles[name] = role
    if missing := {"user", "assistant"} - set(roles.values()):
        raise RunError(f"--columns names no {min(missing)}; write for example question=user,answer=assistant.")
    return roles


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="JSON Lines: conversations or preference pairs.")],
    base_model: Annotated[str, typer.Option(help="`embedded`, a model's folder or a hub name.")] = EMBEDDED,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 3,
    against_gateway: Annotated[
        str | None, typer.Option(metavar="URL", help="Also compare the tokens with those that this gateway makes.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show rows as the model sees them, what is learnt in ⟦green⟧; exit code 1 when a mask is not what it has to be."""
    with exit_codes("interrupted"):
        shown = first_rows(file, rows)
        renderer = _renderer(_base(base_model, data_dir))
        rendered, problems = render_rows(renderer, file, shown)
        if against_gateway:
            problems += other_tokens(renderer, file, shown, gateway_url=against_gateway, data_dir=data_dir)
    if as_json:
        print_json([data_preview.as_json(row) for row in rendered])
    else:
        console = Console()
        for row in rendered:
            console.print(data_preview.masked(row), soft_wrap=True)
    show_problems(problems)
    if problems:
        sys.exit(1)


@app.command("split")
def split(
    file: Annotated[Path, typer.Argument(help="JSON Lines: conversations or preference pairs.")],
    out_dir: Annotated[Path | None, typer.Option(help="Where the parts go; beside the file by default.")] = None,
    valid: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the validation part; 0 writes none.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the test part; 0 writes none.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed makes another split.")] = 0,
    group_field: Annotated[
        str | None, typer.Option(help="Rows of one value, as of one customer, stay together.")
    ] = None,
    label_field: Annotated[str | None, typer.Option(help="The field of JSON outputs that holds the class.")] = None,
    similarity: Annotated[float, typer.Option(min=0.5, max=1.0, help="From where on inputs stay together.")] = 0.8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write train, valid and test files: near copies and groups stay in one part, classes keep their shares."""
    if valid + test >= 1:
        raise typer.BadParameter("valid and test together leave nothing to train on", param_hint="--test")
    plan = SplitPlan(valid, test, seed, group_field, label_field, similarity)
    with exit_codes("interrupted; nothing was written"):
        parts = write_split(file, out_dir or file.parent, plan, force=force)
    if as_json:
        print_json(data_report.parts_json(parts))
    else:
        data_report.show_parts(parts)
