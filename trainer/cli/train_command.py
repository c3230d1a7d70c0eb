"""`turntable train RECIPE`: from a recipe to a run directory and, when asked, into traffic.

What a run needs is imported when it runs, so that `--help` answers at once.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trainer.advice.advice import advice_of_run
from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    AdviceFile,
    AsJson,
    DataDir,
    DespiteAdvice,
    Gateway,
    OverrideBy,
    OverrideReason,
    exit_codes,
    print_json,
)
from trainer.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters import PublishedVersion
    from trainer.training.prepare import PreparedData
    from trainer.training.publish import Promotion
    from trainer.training.recipe import Recipe
    from trainer.training.run import Run, TrainOptions

app = typer.Typer(help="Train an adapter from a recipe.", no_args_is_help=True)
Out = Annotated[Path | None, typer.Option(help="The run directory to write; a new one in the data directory.")]
ReportTo = Annotated[list[str] | None, typer.Option(help="tensorboard, mlflow or wandb; local unless told.")]
FrozenTask = Annotated[
    Path | None, typer.Option("--task", help="The frozen task that will judge the run; its hash is recorded.")
]
Sweep = Annotated[
    bool, typer.Option("--sweep", help="Train every combination in [sweep] and keep the best on held-out rows.")
]


@app.command()
def train_recipe(
    recipe_file: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the latest interrupted run of this recipe, or the one in --out.")
    ] = False,
    auto_batch: Annotated[
        bool, typer.Option("--auto-batch", help="Find the most tokens per batch that memory allows.")
    ] = False,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Train every combination in [sweep] and keep the best on held-out rows.")
    ] = False,
    verify_run: Annotated[
        Path | None, typer.Option("--verify-run", help="Train this finished run again and compare the digests.")
    ] = None,
    report_to: ReportTo = None,
    task: FrozenTask = None,
    publish_it: Annotated[bool, typer.Option("--publish", help="Upload the adapter to the gateway.")] = False,
    publish_name: Annotated[
        str | None, typer.Option("--as", help="Publish under this name instead of the recipe's.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Publish, and make it live, if the gate lets it.")] = False,
    override: OverrideReason = None,
    by: OverrideBy = None,
    advice_file: AdviceFile = None,
    despite_advice: DespiteAdvice = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe; Ctrl-C saves a checkpoint that --resume continues."""
    signal.signal(signal.SIGTERM, _terminated)
    console = Console(stderr=True)
    with exit_codes("interrupted; no run was kept"):
        if verify_run is not None:
            _verify(verify_run, data_dir, console)
            return
        recipe = _read(recipe_file)
        advice = advice_of_run(recipe.name, data_dir, advice_file, despite_advice)
        promotion = _promotion(promote, override, by)
        publishing = publish_it or promotion is not None or bool(publish_name)
        check = _check_for_publishing(recipe, gateway, data_dir, promotion, sweep=sweep) if publishing else None
        options = _options(resume, auto_batch, report_to, advice, _judge(task, recipe), check)
        run = _train(recipe, data_dir, console, out, options, sweep=sweep)
    if run is not None:
        name = (publish_name or recipe.name) if publishing else None
        _finish(run, name, gateway, data_dir, promotion=promotion, as_json=as_json)


def _promotion(promote: bool, reason: str | None, by: str | None) -> "Promotion | None":
    from adapters.cli.shared import override_of
    from trainer.training.publish import Promotion

    override = override_of(reason, by)
    return Promotion(override) if promote or override else None


def _finish(
    run: "Run", name: str | None, gateway: str, data_dir: Path, *, promotion: "Promotion | None", as_json: bool
) -> None:
    """Publish the run under `name`, if there is one, and show it."""
    published = None
    if name:
        from trainer.training.publish import publish

        with exit_codes(f"interrupted; the run is kept in {run.directory}"):
            published = publish(run.directory, name, gateway_url=gateway, data_dir=data_dir, promotion=promotion)
    if as_json:
        print_json({"directory": str(run.directory), **run.facts, "published": _published_json(published)})
    else:
        _show(run, published, promoted=promotion is not None)


def _read(recipe_file: Path | None) -> "Recipe":
    from trainer.training.recipe import read_recipe

    if recipe_file is None:
        raise RecipeError("name a recipe: turntable train RECIPE.")
    return read_recipe(recipe_file)


def _judge(task: Path | None, recipe: "Recipe") -> dict[str, Any] | None:
    """The frozen task that will judge the run, if one was named."""
    if task is None:
        return None
    from trainer.eval.freeze import frozen_commitment

    return frozen_commitment(task, recipe)


def _options(
    resume: bool,
    auto_batch: bool,
    report_to: list[str] | None,
    advice: dict[str, Any] | None,
    task: dict[str, Any] | None,
    check: "Callable[[PreparedData], None] | None",
) -> "TrainOptions":
    from trainer.training.run import TrainOptions

    return TrainOptions(resume, auto_batch, tuple(report_to or ()), advice, task, check)


def _train(
    recipe: "Recipe", data_dir: Path, console: Console, out: Path | None, options: "TrainOptions", *, sweep: bool
) -> "Run | None":
    if sweep:
        from trainer.training.sweep import show_trials, train_sweep

        if options.resume:
            raise RecipeError("--resume continues one run, not a sweep; start the sweep again.")
        if options.report_to:
            raise RecipeError("--report-to follows one run, not a sweep, which writes sweep.json and sweep.svg.")
        if options.task:
            raise RecipeError("--task is recorded with one run, not with a sweep; train the best setting with --task.")
        outcome = train_sweep(
            recipe,
            data_dir,
            console,
            out=out,
            auto_batch=options.auto_batch,
            advice=options.advice,
            check=options.check,
        )
        show_trials(outcome, console)
        return outcome.run
    from trainer.training.run import train

    return train(recipe, data_dir, console, out=out, options=options)


def _verify(run: Path, data_dir: Path, console: Console) -> None:
    from trainer.training.verify_run import verify

    verdict = verify(run, data_dir, console)
    typer.echo(verdict.sentence)
    sys.exit(0 if verdict.same else 1)


def _check_for_publishing(
    recipe: "Recipe", gateway: str, data_dir: Path, promotion: "Promotion | None", *, sweep: bool
) -> "Callable[[PreparedData], None]":
    """Find out before a long run, not after it, what would stop it from being published: now, and once it is read."""
    from trainer.training.publish import refuse_other_tokens_than_served, refuse_what_is_not_served

    if recipe.method == "full":
        raise RecipeError('method = "full" gives a base model, which is served with --model, not published.')
    ranks = [trial.lora.r for trial in (recipe.trials() if sweep else [recipe])]
    refuse_what_is_not_served(ranks, gateway_url=gateway, data_dir=data_dir, promotion=promotion)
    return refuse_other_tokens_than_served(gateway, data_dir)


def _show(run: "Run", published: "PublishedVersion | None", *, promoted: bool) -> None:
    from trainer.training.metrics_log import sparkline

    facts = run.facts
    losses = [step.loss for step in run.metrics if step.loss is not None]
    speed = facts["input_tokens"] / facts["steps_s"]
    typer.echo(f"loss      {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    if facts["valid_loss"] is not None:
        best = f"epoch {facts['best_epoch']} of {facts['epochs']}"
        early = ", stopped early" if facts["epochs"] < facts["recipe"]["training"]["num_train_epochs"] else ""
        typer.echo(
            f"held out  {facts['valid_loss_before']:.3f} before, {facts['valid_loss']:.3f} after ({best} kept{early})"
        )
    if facts["method"] == "qlora" and facts["on_served_base"]["valid_loss"] is not None:
        served = facts["on_served_base"]
        typer.echo(
            f"served    {served['valid_loss_before']:.3f} before, {served['valid_loss']:.3f} after on the bf16 base; "
            f"NF4 differs from it by {served['nf4_drift']:.3f} per token"
        )
    typer.echo(f"time      {facts['wall_s']:.1f} s, {facts['steps']} steps, {speed:,.0f} tokens/s while training")
    typer.echo(f"{'model    ' if facts['method'] == 'full' else 'adapter  '} {run.directory}")
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
