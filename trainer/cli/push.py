"""`turntable push RUN OWNER/NAME`: push a finished run to a model hub."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import trainer_app
from turntable.console import print_json
from turntable.options import AsJson

app = trainer_app(help="Push a finished run to a model hub.", no_args_is_help=True)


@app.command(interrupted="interrupted; the repository may be empty")
def push_run(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of the run.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public instead of private.")] = False,
    as_json: AsJson = False,
) -> None:
    """Push a finished run to a model hub, without its rows, parity vectors and paths."""
    from trainer.training.hub import push

    address = push(run, repository, is_private=not public)
    if as_json:
        print_json({"address": address})
        return
    typer.echo(f"pushed to {address}")
