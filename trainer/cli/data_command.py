"""`turntable data …`: look at training data before anything is trained on it."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from trainer.base import find_base
from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    AsJson,
    DataDir,
    count,
    exit_codes,
    print_json,
    show_problems,
)
from trainer.dataset import Report, check, read_dataset, shared_rows
from trainer.errors import Problem
from trainer.prepare import prepare
from trainer.recipe import EMBEDDED

if TYPE_CHECKING:
    from trainer.rendering import Rendered

app = typer.Typer(help="Check, convert and preview training data.", no_args_is_help=True)


@app.command("check")
def check_files(
    files: Annotated[list[Path], typer.Argument(help="Chat `messages` in JSON Lines.")], as_json: AsJson = False
) -> None:
    """Find every problem of the files in one pass; exit code 2 when there is one."""
    with exit_codes("interrupted"):
        reports = [check(path) for path in files]
        shared = [warning for one, other in combinations(reports, 2) for warning in shared_rows(one, other)]
        if as_json:
            print_json(
                {"files": [_report_json(report) for report in reports], "shared_rows": [asdict(w) for w in shared]}
            )
        else:
            _show(reports, shared)
        if any(report.problems for report in reports):
            sys.exit(2)


@app.command("prepare")
def convert(
    file: Annotated[Path, typer.Argument(help="A JSON array or JSON Lines file in another shape.")],
    shape: Annotated[Literal["alpaca", "sharegpt", "messages"], typer.Option("--from", help="The file's shape.")],
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a file to chat `messages`, leaving out and naming what cannot be converted faithfully."""
    with exit_codes("interrupted; nothing was written"):
        account = prepare(file, shape, out, force=force)
    if as_json:
        print_json(asdict(account) | {"source": str(account.source), "out": str(account.out)})
        return
    show_problems(account.skipped)
    show_problems(account.warnings)
    typer.echo(
        f"{account.out}: {count(account.written, 'row')} written of {account.read:,} read, "
        f"{len(account.skipped):,} left out, {count(len(account.warnings), 'warning')}"
    )


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="Chat `messages` in JSON Lines.")],
    base_model: Annotated[str, typer.Option(help="`embedded`, a model's folder or a hub name.")] = EMBEDDED,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 3,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show rows as the model sees them; what is learnt is green and stands in ⟦brackets⟧."""
    with exit_codes("interrupted"):
        examples = read_dataset(file).examples
        base = find_base(base_model, relative_to=Path(), data_dir=data_dir, console=Console(stderr=True))
        from trainer.rendering import Renderer, render_all

        renderer = Renderer.load(base.directory)
        shown = render_all(
            renderer, file, list(islice(examples, rows)), max_length=renderer.longest_context, allow_drop=True
        ).rows
    if as_json:
        print_json([asdict(row) for row in shown])
        return
    console = Console()
    for row in shown:
        console.print(_masked(row), soft_wrap=True)


def _show(reports: Sequence[Report], shared: Sequence[Problem]) -> None:
    for report in reports:
        show_problems(report.problems)
        for warning in report.warnings[:20]:
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(
            f"{report.path}: {count(report.rows, 'row')}, {count(len(report.problems), 'problem')}, "
            f"{count(len(report.warnings), 'exact duplicate')}, sha256 {report.sha256[:12]}"
        )
    for warning in shared:
        typer.echo(f"warning: {warning}", err=True)


def _report_json(report: Report) -> dict[str, object]:
    return {
        "file": str(report.path),
        "rows": report.rows,
        "sha256": report.sha256,
        "problems": [asdict(problem) for problem in report.problems],
        "warnings": [asdict(warning) for warning in report.warnings],
    }


def _masked(row: "Rendered") -> Text:
    text, at = Text(), 0
    text.append(f"line {row.line}: {len(row.input_ids)} tokens, {row.trained_tokens} learnt\n", style="bold")
    for begin, end in row.learnt:
        text.append(row.text[at:begin], style="dim")
        text.append(f"⟦{row.text[begin:end]}⟧", style="green")
        at = end
    return text.append(row.text[at:].rstrip("\n") + "\n", style="dim")
