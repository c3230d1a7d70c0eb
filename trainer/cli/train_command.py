"""`turntable train RECIPE`: from a recipe to a run directory and, when asked, into traffic.

What a run needs is imported when it runs, so that `--help` answers at once.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trainer.cli.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway, exit_codes, print_json

if TYPE_CHECKING:
    from adapters import PublishedVersion
    from trainer.train import Run

app = typer.Typer(help="Train an adapter from a recipe.", no_args_is_help=True)


@app.command()
def train_recipe(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run directory to write; a new one in the data directory.")
    ] = None,
    publish_it: Annotated[bool, typer.Option("--publish", help="Upload the adapter to the gateway.")] = False,
    publish_name: Annotated[
        str | None, typer.Option("--as", help="Publish under this name instead of the recipe's.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Publish, and make the new version live.")] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe; Ctrl-C leaves nothing behind."""
    from trainer.publish import publish
    from trainer.recipe import read_recipe
    from trainer.train import train

    signal.signal(signal.SIGTERM, _terminated)
    with exit_codes("interrupted; no run was kept"):
        recipe = read_recipe(recipe_file)
        run = train(recipe, data_dir, Console(stderr=True), out=out)
    published = None
    if publish_it or promote or publish_name:
        with exit_codes(f"interrupted; the run is kept in {run.directory}"):
            name = publish_name or recipe.name
            published = publish(run.directory, name, gateway_url=gateway, data_dir=data_dir, promote=promote)
    if as_json:
        print_json({"directory": str(run.directory), **run.facts, "published": _published_json(published)})
    else:
        _show(run, published, promoted=promote)


def _show(run: "Run", published: "PublishedVersion | None", *, promoted: bool) -> None:
    from trainer.curves import sparkline

    facts = run.facts
    losses = [step.loss for step in run.metrics if step.loss is not None]
    speed = facts["input_tokens"] / facts["steps_s"]
    typer.echo(f"loss      {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    if facts["valid_loss"] is not None:
        best = f"epoch {facts['best_epoch']:g} of {facts['recipe']['training']['num_train_epochs']}"
        typer.echo(f"held out  {facts['valid_loss_before']:.3f} before, {facts['valid_loss']:.3f} after ({best} kept)")
    typer.echo(f"time      {facts['wall_s']:.1f} s, {facts['steps']} steps, {speed:,.0f} tokens/s while training")
    typer.echo(f"adapter   {run.directory}")
    if published:
        live = "live" if promoted else f"{published.state}, not yet live"
        typer.echo(f"published {published.name}@{published.version} ({published.digest[:12]}), {live}")


def _published_json(published: "PublishedVersion | None") -> dict[str, str] | None:
    if published is None:
        return None
    return {key: getattr(published, key) for key in ("name", "version", "digest", "state")}


def _terminated(signal_number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that a stopped container leaves no half-written run."""
    sys.exit(128 + signal_number)
