"""A sweep: every combination of rank, learning rate and seed over one frozen base in one process.

The base is loaded and the rows are rendered once; each trial puts a fresh adapter on the same weights and takes it off
again, so a trial gives the bytes that its recipe alone would give. The winner has the lowest held-out loss.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from trainer.errors import RecipeError, RunError
from trainer.files import disk
from trainer.training.base import prepare_libraries
from trainer.training.metrics_log import Recorder, save_sweep
from trainer.training.prepare import PreparedData, prepare_data, read_rows
from trainer.training.progress import TrainingProgress
from trainer.training.recipe import Recipe
from trainer.training.run import Run, fit_into_memory, warn, write_run
from trainer.training.run_directory import default_directory, staged
from trainer.training.run_metadata import run_metadata
from turntable.console import fitted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.training.fit import Trained
    from trainer.training.metrics_log import StepMetrics
    from trainer.training.parity import Vector
    from trainer.training.run_metadata import OnServedBase

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination and how it went; `digest_of_weights` tells trials apart."""

    r: int
    learning_rate: float
    seed: int
    train_loss: float
    valid_loss: float
    best_epoch: int
    wall_s: float


@dataclass(frozen=True)
class Outcome:
    """A finished sweep: all trials in the order they ran, the best one's place among them, and its run."""

    trials: tuple[Trial, ...]
    best: int
    run: Run


@dataclass(frozen=True)
class _Best:
    recipe: Recipe
    trained: "Trained"
    metrics: "tuple[StepMetrics, ...]"
    served: "OnServedBase"
    vectors: "list[Vector]"
    began_at: datetime
    wall_s: float


def train_sweep(
    recipe: Recipe,
    data_dir: Path,
    console: Console,
    *,
    out: Path | None = None,
    auto_batch: bool = False,
    advice: dict[str, Any] | None = None,
    check: Callable[[PreparedData], None] | None = None,
) -> Outcome:
    """Train every trial of a recipe; the best one's run, with sweep.json and sweep.svg, goes to `out`.

    `check` is as in a run's `Options`.

    Raises `RecipeError` when there is nothing to choose from or by, `DataError` and `RunError` as training does.
    """
    trials = recipe.trials()
    _refuse_unusable(recipe, trials)
    rows = read_rows(recipe)
    warn(rows, console)
    prepare_libraries()
    final = out or default_directory(data_dir, recipe.name)
    with staged(final) as folder:
        material = prepare_data(recipe, rows, data_dir, console)
        if check is not None:
            check(material)
        if not material.valid.rows:
            raise RecipeError("a sweep chooses by held-out loss, and nothing is held out; set valid or valid_fraction.")
        highest = max(trials, key=lambda trial: trial.lora.r)
        fitted = fit_into_memory(material, highest, auto_batch=auto_batch).training.max_tokens_per_batch
        results, best = _run_trials(material, trials, fitted, folder, console)
        facts, metrics = _write(folder, material, best, results, advice)
    chosen = min(range(len(results)), key=lambda i: results[i].valid_loss)
    return Outcome(tuple(results), chosen, Run(final, facts, metrics))


def show_trials(outcome: Outcome, console: Console) -> None:
    """The table of a sweep, best first."""
    table = Table("r", "learning rate", "seed", "held-out loss", "epoch kept", "training loss", "time")
    order = sorted(range(len(outcome.trials)), key=lambda i: outcome.trials[i].valid_loss)
    for i in order:
        t = outcome.trials[i]
        cells = (str(t.r), f"{t.learning_rate:g}", str(t.seed), f"{t.valid_loss:.4f}", str(t.best_epoch))
        table.add_row(*cells, f"{t.train_loss:.4f}", f"{t.wall_s:.1f} s", style="bold" if i == outcome.best else None)
    console.print(fitted(table, console))


def _refuse_unusable(recipe: Recipe, trials: list[Recipe]) -> None:
    if recipe.method == "full":
        raise RecipeError('method = "full" changes the base, so trials cannot share it; sweep lora, qlora or dpo.')
    if len(trials) < 2:
        raise RecipeError("[sweep] lists nothing to choose from; write for example r = [8, 16] or seed = [0, 1, 2].")


def _run_trials(
    material: PreparedData, trials: list[Recipe], max_tokens: int, folder: Path, console: Console
) -> tuple[list[Trial], _Best]:
    from trainer.training.model import device_of_this_process, load_base

    nf4 = material.recipe.method == "qlora"
    base = load_base(material.base.directory, device_of_this_process(0), nf4=nf4)
    results: list[Trial] = []
    best: _Best | None = None
    for number, trial in enumerate(trials, start=1):
        console.print(
            f"trial {number} of {len(trials)}: r {trial.lora.r}, learning rate {trial.training.learning_rate:g}, "
            f"seed {trial.seed}",
            highlight=False,
        )
        training = trial.training.model_copy(update={"max_tokens_per_batch": max_tokens})
        ran, base = _run_trial(material, trial.model_copy(update={"training": training}), base, folder, console)
        results.append(_row(ran))
        if best is None or _valid_loss(ran) < _valid_loss(best):
            best = ran
    assert best is not None, "there are at least two trials"
    return results, best


def _run_trial(
    material: PreparedData, trial: Recipe, base: "PreTrainedModel", folder: Path, console: Console
) -> "tuple[_Best, PreTrainedModel]":
    from trainer.training.fit import FitConfig, fit
    from trainer.training.model import remove_adapter
    from trainer.training.served_base import evaluate_on_bf16_base

    began, began_at = time.perf_counter(), datetime.now(UTC)
    with TrainingProgress(console) as progress:
        recorder = Recorder(folder, progress)
        learner, trained = fit(material, trial, base, recorder, FitConfig())
    served, vectors = evaluate_on_bf16_base(material, trial, trained, learner)
    ran = _Best(trial, trained, tuple(recorder.metrics), served, vectors, began_at, time.perf_counter() - began)
    return ran, remove_adapter(learner)


def _write(
    folder: Path, material: PreparedData, best: _Best, results: list[Trial], advice: dict[str, Any] | None
) -> "tuple[dict[str, object], tuple[StepMetrics, ...]]":
    from trainer.training.metrics_log import write_metrics
    from trainer.training.parity import write_parity

    write_parity(folder, best.vectors)
    facts = run_metadata(material, best.recipe, best.trained, best.served, best.began_at, best.wall_s)
    facts["advice"] = advice
    facts["sweep"] = [asdict(trial) for trial in results]
    write_metrics(folder, best.metrics)
    with disk(folder):
        document = {"format": 1, "trials": facts["sweep"]}
        (folder / SWEEP_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        points = [(t.learning_rate, t.valid_loss, f"r {t.r}") for t in results]
        save_sweep(folder / "sweep.svg", best.recipe.name, points)
    return write_run(folder, material, best.recipe, best.trained, facts, best.metrics), best.metrics


def _row(ran: _Best) -> Trial:
    recipe, trained = ran.recipe, ran.trained
    return Trial(
        r=recipe.lora.r,
        learning_rate=recipe.training.learning_rate,
        seed=recipe.seed,
        train_loss=trained.train_loss,
        valid_loss=_valid_loss(ran),
        best_epoch=trained.best_epoch or 0,
        wall_s=round(ran.wall_s, 3),
    )


def _valid_loss(ran: _Best) -> float:
    """The loss the winner is chosen by: on the base as it is served."""
    loss = ran.served.valid_loss
    if loss is None:
        raise RunError("a trial has no held-out loss; set valid or valid_fraction.")
    return loss
