"""`turntable lineage row ID|FILE:LINE`: which runs and adapters saw a row."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, count, exit_codes, print_json

_NOT_SEARCHED = (
    "runs elsewhere (--runs FOLDER) and runs that were deleted are not known, though their adapters may serve"
)
app = typer.Typer(help="Say which runs and adapters saw a row.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Say which runs and adapters saw a row."""


@app.command("row")
def find_row(
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row's id, or FILE:LINE.")],
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", help="A folder with runs written elsewhere by --out, or one run; repeatable."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Every run that read a row, given by its id or as FILE:LINE; those that trained on it are to be retrained."""
    from trainer.training.lineage import find_row_uses, resolve_row

    with exit_codes("interrupted"):
        row_id = resolve_row(row)
        search = find_row_uses(row_id, data_dir, runs or ())
    if as_json:
        searched = {"folders": [str(folder) for folder in search.folders], "runs": search.runs}
        print_json({"row_id": row_id, "runs": [asdict(one) for one in search.found], "searched": searched})
        return
    typer.echo(f"row {row_id}")
    for seen in search.found:
        typer.echo(f"{seen.part:<8} {seen.name}@{seen.digest[:12]}  run {seen.run}, {seen.file}:{seen.line}")
    looked = ", ".join(map(str, search.folders))
    if not search.found:
        typer.echo(f"no run in {looked} read it")
    typer.echo(f"looked in {count(search.runs, 'run')} in {looked}; {_NOT_SEARCHED}")
