"""`turntable merge RUN --out DIR`: base and adapter as one model directory."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, exit_codes, print_json
from trainer.recipe import EMBEDDED

app = typer.Typer(help="Merge an adapter into its base.", no_args_is_help=True)


@app.command()
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="RUN", help="The adapter's directory.")],
    out: Annotated[Path, typer.Option(help="The model directory to write.")],
    base_model: Annotated[str, typer.Option(help="`embedded`, a model's folder or a hub name.")] = EMBEDDED,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base as one model directory, checked to answer as the two do together."""
    from trainer.merge import merge

    with exit_codes("interrupted; nothing was written"):
        merged = merge(adapter, base_model, out, data_dir, Console(stderr=True))
    if as_json:
        mean, largest = merged.mean_difference, merged.largest_difference
        print_json({"directory": str(out), "mean_difference": mean, "largest_difference": largest})
        return
    typer.echo(
        f"{out}: merged; log-probabilities differ from base and adapter by {merged.mean_difference:.4f} on average, "
        f"{merged.largest_difference:.4f} at most"
    )
