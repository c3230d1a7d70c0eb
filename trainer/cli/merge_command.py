"""`turntable merge RUN --out DIR`: base and adapter as one model directory."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, exit_codes, print_json

app = typer.Typer(help="Merge an adapter into its base.", no_args_is_help=True)


@app.command()
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="RUN", help="The adapter's directory.")],
    out: Annotated[Path, typer.Option(help="The model directory to write.")],
    base_model: Annotated[
        str | None, typer.Option(help="`embedded`, a model's folder or a hub name; the run's own when not given.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base as one model directory, checked to answer as the two do together."""
    from trainer.training.merge import merge

    with exit_codes("interrupted; nothing was written"):
        merged = merge(adapter, base_model, out, data_dir, Console(stderr=True))
    found = merged.differences
    if as_json:
        print_json({"directory": str(out), "mean_difference": found.mean, "largest_difference": found.largest})
        return
    typer.echo(
        f"{out}: merged; rounding changes log-probabilities by {found.mean:.4f} on average, {found.largest:.4f} at "
        f"most (computing in bf16 changes them by {found.of_bf16:.4f})"
    )
