"""`turntable merge RUN --out DIR`: merge an adapter into its base model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli.options import trainer_app
from turntable.console import print_json
from turntable.options import DEFAULT_DATA_DIR, AsJson, DataDir

app = trainer_app(help="Merge an adapter into its base model.", no_args_is_help=True)


@app.command(interrupted="interrupted; nothing was written")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="RUN", help="The run or adapter directory.")],
    out: Annotated[Path, typer.Option(help="The model directory to write.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="`embedded`, a model directory or a hub name.", show_default="the run's base model"),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base model and check that the log-probabilities stay the same."""
    from trainer.training.base import prepare_libraries

    prepare_libraries()
    from trainer.training.merge import merge

    merged = merge(adapter, base_model, out, data_dir, Console(stderr=True))
    found = merged.differences
    if as_json:
        print_json({"directory": str(out), "mean_difference": found.mean, "largest_difference": found.largest})
        return
    typer.echo(
        f"{out}: merged; rounding changes log-probabilities by {found.mean:.4f} on average, {found.largest:.4f} at "
        f"most (computing in bf16 changes them by {found.of_bf16:.4f})"
    )
