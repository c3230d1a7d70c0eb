"""`turntable train RECIPE`: train an adapter into a run directory, and optionally publish and promote it.

The training code is imported when a run starts, so that `--help` stays fast.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trainer.advice.advice import advice_of_run
from trainer.cli.options import AdviceFile, DespiteAdvice, address_of, trainer_app
from trainer.errors import RecipeError
from turntable.console import FAILED, INTERRUPTED, CommandError, print_json
from turntable.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    AsJson,
    DataDir,
    Gateway,
    OverrideBy,
    OverrideReason,
    override_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters import PublishedVersion
    from trainer.training.dataset import PreparedData
    from trainer.training.publish import Promotion
    from trainer.training.recipe import Recipe
    from trainer.training.run import Run, TrainOptions

app = trainer_app(help="Train an adapter from a recipe.", no_args_is_help=True)
Out = Annotated[
    Path | None, typer.Option(help="The run directory to write.", show_default="a new one in the data directory")
]
ReportTo = Annotated[list[str] | None, typer.Option(help="Also log to tensorboard, mlflow or wandb; repeatable.")]
FrozenTask = Annotated[
    Path | None, typer.Option("--task", help="The frozen task that will evaluate the run; its hash is recorded.")
]
VerifyRun = Annotated[
    Path | None,
    typer.Option(
        "--verify-run", help="Repeat this finished run and compare the adapter digests; exit code 1 if they differ."
    ),
]
DespiteData = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Train despite red findings of `turntable data check`; kept with the run."),
]


@app.command(interrupted="interrupted; no run was kept")
def train_recipe(
    recipe_file: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="The recipe (TOML).")] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the latest interrupted run of this recipe, or the one in --out.")
    ] = False,
    auto_batch: Annotated[
        bool, typer.Option("--auto-batch", help="Find the largest batch, in tokens, that fits into memory.")
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option("--sweep", help="Train every combination in [sweep] and keep the one with the lowest eval loss."),
    ] = False,
    verify_run: VerifyRun = None,
    report_to: ReportTo = None,
    task: FrozenTask = None,
    despite_data: DespiteData = None,
    publish_it: Annotated[bool, typer.Option("--publish", help="Upload the adapter to the gateway.")] = False,
    publish_name: Annotated[
        str | None, typer.Option("--as", help="Publish under this name instead of the recipe's.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Publish and promote, if the promotion gate allows it.")
    ] = False,
    override: OverrideReason = None,
    by: OverrideBy = None,
    advice_file: AdviceFile = None,
    despite_advice: DespiteAdvice = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Train an adapter from a recipe; Ctrl-C saves a checkpoint that --resume continues."""
    _begin()
    console = Console(stderr=True)
    if verify_run is not None:
        _verify(verify_run, data_dir, console)
        return
    gateway, recipe = address_of(gateway, data_dir), _read(recipe_file)
    advice = advice_of_run(recipe.name, data_dir, advice_file, despite_advice)
    promotion = _promotion(promote, override, by)
    publishing = publish_it or promotion is not None or bool(publish_name)
    check = _check_for_publishing(recipe, gateway, data_dir, promotion, sweep=sweep) if publishing else None
    options = _options(resume, auto_batch, report_to, advice, _judge(task, recipe), check, despite_data)
    run = _train(recipe, data_dir, console, out, options, sweep=sweep)
    if run is not None:
        name = (publish_name or recipe.name) if publishing else None
        _finish(run, name, gateway, data_dir, promotion=promotion, as_json=as_json)


def _begin() -> None:
    """Set what torch and the Hugging Face libraries read when they are imported, and stop on SIGTERM as on Ctrl-C."""
    from trainer.training.base import prepare_libraries

    prepare_libraries()
    signal.signal(signal.SIGTERM, _terminated)


def _promotion(promote: bool, reason: str | None, by: str | None) -> "Promotion | None":
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

        try:
            published = publish(run.directory, name, gateway_url=gateway, data_dir=data_dir, promotion=promotion)
        except KeyboardInterrupt:
            kept = f"interrupted; the run is kept in {run.directory}"
            raise CommandError(kept, exit_code=INTERRUPTED) from None
    if as_json:
        print_json({"directory": str(run.directory), **run.facts, "published": _published_json(published)})
    else:
        _show(run, published, promoted=promotion is not None)


def _read(recipe_file: Path | None) -> "Recipe":
    from trainer.training.recipe import read_recipe

    if recipe_file is None:
        raise RecipeError("give a recipe: turntable train RECIPE.")
    return read_recipe(recipe_file)


def _judge(task: Path | None, recipe: "Recipe") -> dict[str, Any] | None:
    """The commitment to the frozen task that will evaluate the run, if one is given."""
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
    despite_data: str | None,
) -> "TrainOptions":
    from trainer.training.run import TrainOptions

    return TrainOptions(resume, auto_batch, tuple(report_to or ()), advice, task, check, despite_data)


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
            despite_data=options.despite_data,
        )
        show_trials(outcome, console)
        return outcome.run
    from trainer.training.run import train

    return train(recipe, data_dir, console, out=out, options=options)


def _verify(run: Path, data_dir: Path, console: Console) -> None:
    from trainer.training.verify_run import verify

    verdict = verify(run, data_dir, console)
    typer.echo(verdict.sentence)
    if not verdict.same:
        raise typer.Exit(FAILED)


def _check_for_publishing(
    recipe: "Recipe", gateway: str, data_dir: Path, promotion: "Promotion | None", *, sweep: bool
) -> "Callable[[PreparedData], None]":
    """Check before a long run whether its adapter can be published; the returned check needs the prepared data."""
    from trainer.training.publish import refuse_other_tokens_than_served, refuse_unpublishable

    if recipe.method == "full":
        raise RecipeError('method = "full" gives a base model, which is served with --model, not published.')
    ranks = [trial.lora.max_rank for trial in (recipe.trials() if sweep else [recipe])]
    refuse_unpublishable(ranks, gateway_url=gateway, data_dir=data_dir, promotion=promotion)
    return refuse_other_tokens_than_served(gateway, data_dir)


def _show(run: "Run", published: "PublishedVersion | None", *, promoted: bool) -> None:
    from trainer.training.metrics_log import sparkline

    facts = run.facts
    losses = [step.loss for step in run.metrics if step.loss is not None]
    speed = facts["input_tokens"] / facts["steps_s"]
    typer.echo(f"loss      {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    if facts["eval_loss"] is not None:
        best = f"best epoch {facts['best_epoch']} of {facts['epochs']}"
        early = ", stopped early" if facts["epochs"] < facts["recipe"]["training"]["num_train_epochs"] else ""
        typer.echo(f"eval loss {facts['eval_loss_before']:.3f} before, {facts['eval_loss']:.3f} after ({best}{early})")
    if rewards := facts["rewards"]:
        typer.echo("rewards   " + ", ".join(f"{name} {value:.3f}" for name, value in rewards.items()) + " (held out)")
    if facts["method"] == "qlora" and facts["on_bf16_base"]["eval_loss"] is not None:
        served = facts["on_bf16_base"]
        typer.echo(
            f"on bf16   {served['eval_loss_before']:.3f} before, {served['eval_loss']:.3f} after on the bf16 base; "
            f"quantization error {served['quantization_error']:.3f} per token"
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
    """Leave on SIGTERM as on Ctrl-C, so that a stopped container leaves no half-written run."""
    sys.exit(128 + signal_number)
