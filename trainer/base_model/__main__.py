"""`python -m trainer.base_model --out DIR`: build the embedded base model, with a progress line."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.base_model.build import BuildProgress, build_base_model
from trainer.errors import TrainerError
from trainer.training.base import prepare_libraries


def main(
    out: Annotated[Path, typer.Option(help="The directory to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = 0,
) -> None:
    """Build the embedded base model unless it is there already."""
    prepare_libraries()
    columns = (TextColumn("base model"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("writing the text", total=None)

            def show(now: BuildProgress) -> None:
                text = f"loss {now.loss:.2f}, {now.tokens_per_s:,.0f} tokens/s"
                progress.update(task, total=now.steps, completed=now.step, description=text)

            build_base_model(out, seed=seed, report=show)
    except TrainerError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was kept", err=True)
        sys.exit(130)


if __name__ == "__main__":
    typer.run(main)
