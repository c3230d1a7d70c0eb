"""`python -m trainer.base_model --out DIR`: build the embedded base model, with a progress line."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.base_model.build import build_base_model
from trainer.errors import TrainerError
from trainer.training.base import prepare_libraries
from trainer.training.metrics_log import base_model_progress


def main(out: Annotated[Path, typer.Option(help="The directory to write.")]) -> None:
    """Build the embedded base model unless it is there already."""
    prepare_libraries()
    try:
        with base_model_progress(Console(stderr=True)) as report:
            build_base_model(out, report=report)
    except TrainerError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was kept", err=True)
        sys.exit(130)


if __name__ == "__main__":
    typer.run(main)
