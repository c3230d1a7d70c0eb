"""`turntable lineage row ID|FILE:LINE`: which runs and adapters saw a row."""

from dataclasses import asdict
from typing import Annotated

import typer

from trainer.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, exit_codes, print_json

app = typer.Typer(help="Say which runs and adapters saw a row.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Say which runs and adapters saw a row."""


@app.command("row")
def find_row(
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row's id, or FILE:LINE.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Every run that read a row, given by its id or as FILE:LINE; those that trained on it are to be retrained."""
    from trainer.lineage import resolve_row, sightings

    with exit_codes("interrupted"):
        row_id = resolve_row(row)
        found = sightings(row_id, data_dir)
    if as_json:
        print_json({"row_id": row_id, "runs": [asdict(sighting) for sighting in found]})
        return
    typer.echo(f"row {row_id}")
    for seen in found:
        typer.echo(f"{seen.part:<8} {seen.name}@{seen.digest[:12]}  run {seen.run}, {seen.file}:{seen.line}")
    if not found:
        typer.echo(f"no run in {data_dir} read it")
