"""`turntable lineage row ID|FILE:LINE`: find the runs and adapters that used an example."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import trainer_app
from turntable.console import count, print_json
from turntable.options import DEFAULT_DATA_DIR, AsJson, DataDir

_NOT_SEARCHED = (
    "runs in other folders (--runs FOLDER) and deleted runs are not searched, though their adapters may still be served"
)
app = trainer_app(help="Find the runs and adapters that used an example.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Find the runs and adapters that used an example."""


@app.command("row")
def find_row(
    row: Annotated[str, typer.Argument(metavar="ROW", help="The example's id, or FILE:LINE.")],
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", help="Another folder with runs, or one run; repeatable."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List every run that read an example, by its id or FILE:LINE; adapters trained on it may need retraining."""
    from trainer.training.lineage import find_row_uses, resolve_row

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
        typer.echo(f"no run in {looked} used it")
    typer.echo(f"searched {count(search.runs, 'run')} in {looked}; {_NOT_SEARCHED}")
