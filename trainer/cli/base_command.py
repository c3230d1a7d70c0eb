"""`turntable base build`: the embedded base model, made by our own code from our own text."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli.options import DEFAULT_DATA_DIR, DataDir, exit_codes
from trainer.training.base import BASE_MODEL_FOLDER, prepare_libraries
from trainer.training.metrics_log import base_model_progress

app = typer.Typer(help="Build the embedded base model.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Build the embedded base model."""


@app.command()
def build(
    out: Annotated[Path | None, typer.Option(help="The folder to write; base-model in the data directory.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train the small chat model that stands in where no other is given; done once, then kept."""
    folder = out or data_dir / BASE_MODEL_FOLDER
    prepare_libraries()
    with exit_codes("interrupted; no base model was kept"), base_model_progress(Console(stderr=True)) as report:
        from trainer.base_model import build_base_model

        typer.echo(build_base_model(folder, seed=seed, report=report))
