"""Sweep: train every combination of rank, learning rate and seed over one frozen base in one process.

The base is loaded and the rows are rendered once. Each trial puts a fresh adapter on the same base and removes it
again, so it gives the bytes that its recipe alone would give. The best trial has the lowest eval loss on the bf16 base.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from trainer.errors import RecipeError
from trainer.files import disk
from trainer.training.base import prepare_libraries
from trainer.training.dataset import PreparedData, load_data, prepare_data
from trainer.training.metrics_log import MetricsRecorder, TrainingProgress, save_sweep, write_metrics
from trainer.training.recipe import Recipe
from trainer.training.run import Run, fit_into_memory, print_warnings, save_weights, teller, write_run
from trainer.training.run_directory import default_directory, staged
from trainer.training.run_metadata import run_metadata
from turntable.console import Table, figures

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.training.loop import TrainedWeights
    from trainer.training.metrics_log import StepMetrics
    from trainer.training.parity import AfterTraining, ParityVector
    from trainer.training.run_metadata import Bf16BaseEval

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination and its losses."""

    r: int
    learning_rate: float
    seed: int
    train_loss: float
    eval_loss: float
    best_epoch: float
    wall_s: float


@dataclass(frozen=True)
class SweepOutcome:
    """A finished sweep: all trials in order, the index of the best one, and its run."""

    trials: tuple[Trial, ...]
    best: int
    run: Run


@dataclass(frozen=True)
class _TrialRun:
    """A trial with everything that its run directory would need."""

    recipe: Recipe
    trained: "TrainedWeights"
    metrics: "tuple[StepMetrics, ...]"
    after: "AfterTraining"
    began_at: datetime
    wall_s: float
    evaluation: "Bf16BaseEval | None" = None
    vectors: "tuple[ParityVector, ...]" = ()


def train_sweep(
    recipe: Recipe,
    data_dir: Path,
    console: Console,
    *,
    out: Path | None = None,
    auto_batch: bool = False,
    advice: dict[str, Any] | None = None,
    check: Callable[[PreparedData], None] | None = None,
    despite_data: str | None = None,
) -> SweepOutcome:
    """Train every trial of a recipe; the run of the best one, with sweep.json and sweep.svg, goes to `out`.

    `check` and `despite_data` are as in `TrainOptions`. Raises `RecipeError` without trials or validation rows,
    `DataError` and `RunError` as training does.
    """
    trials = recipe.trials()
    _refuse_unusable(recipe, trials)
    rows = load_data(recipe, despite_data, data_dir)
    print_warnings(rows, console)
    prepare_libraries()
    from trainer.training.distributed import refuse_several_processes

    refuse_several_processes("a sweep")
    final = out or default_directory(data_dir, recipe.name)
    with staged(final) as folder:
        data = prepare_data(recipe, rows, data_dir, console)
        if check is not None:
            check(data)
        if not data.valid.rows:
            raise RecipeError("a sweep needs an eval loss, and nothing is held out; set valid or valid_fraction.")
        highest = max(trials, key=lambda trial: trial.lora.r)
        max_tokens = fit_into_memory(
            data, highest, teller(console), auto_batch=auto_batch
        ).training.max_tokens_per_batch
        runs = _run_trials(data, trials, max_tokens, folder, console)
        runs = [run if run.evaluation is not None else _evaluated(data, run, console) for run in runs]
        results = [_trial(run, loss) for run, loss in zip(runs, _eval_losses(runs), strict=True)]
        best = min(range(len(results)), key=lambda i: results[i].eval_loss)
        facts, metrics = _write(folder, data, runs[best], results, advice)
    return SweepOutcome(tuple(results), best, Run(final, facts, metrics))


def show_trials(outcome: SweepOutcome, console: Console) -> None:
    """Print the table of a sweep, best trial first."""
    heads = ("r", "learning rate", "seed", "eval loss", "best epoch", "training loss", "time")
    table = Table(*figures(*heads), "kept")
    order = sorted(range(len(outcome.trials)), key=lambda i: outcome.trials[i].eval_loss)
    for i in order:
        t = outcome.trials[i]
        cells = (str(t.r), f"{t.learning_rate:g}", str(t.seed), f"{t.eval_loss:.4f}", str(t.best_epoch))
        kept = "yes" if i == outcome.best else ""
        table.add(*cells, f"{t.train_loss:.4f}", f"{t.wall_s:.1f} s", kept)
    console.print(table.render(console.width), soft_wrap=True, highlight=False, markup=False)


def _refuse_unusable(recipe: Recipe, trials: list[Recipe]) -> None:
    if recipe.method == "full":
        raise RecipeError('method = "full" changes the base, so trials cannot share it; sweep another method.')
    if len(trials) < 2:
        raise RecipeError("[sweep] lists nothing to choose from; write for example r = [8, 16] or seed = [0, 1, 2].")


def _run_trials(
    data: PreparedData, trials: list[Recipe], max_tokens: int, folder: Path, console: Console
) -> list[_TrialRun]:
    """Train all trials on one base, which is free when this returns."""
    from trainer.training.model import load_base, local_device

    base = load_base(data.base.directory, local_device(0), nf4=data.recipe.method == "qlora")
    runs = []
    for number, trial in enumerate(trials, start=1):
        console.print(
            f"trial {number} of {len(trials)}: r {trial.lora.r}, learning rate {trial.training.learning_rate:g}, "
            f"seed {trial.seed}",
            highlight=False,
        )
        training = trial.training.model_copy(update={"max_tokens_per_batch": max_tokens})
        run, base = _run_trial(data, trial.model_copy(update={"training": training}), base, folder, console)
        runs.append(run)
    return runs


def _run_trial(
    data: PreparedData, trial: Recipe, base: "PreTrainedModel", folder: Path, console: Console
) -> "tuple[_TrialRun, PreTrainedModel]":
    from trainer.training.loop import FitConfig, fit
    from trainer.training.model import remove_adapter
    from trainer.training.parity import AfterTraining

    began, began_at = time.perf_counter(), datetime.now(UTC)
    with TrainingProgress(console) as progress:
        recorder = MetricsRecorder(folder, progress)
        model, trained = fit(data, trial, base, recorder, FitConfig(say=teller(console)))
    after = AfterTraining.of(model, data, trained)
    run = _TrialRun(trial, trained, tuple(recorder.metrics), after, began_at, time.perf_counter() - began)
    if after.model is not None:
        run = _evaluated(data, run, console)
    return run, remove_adapter(model)


def _evaluated(data: PreparedData, run: _TrialRun, console: Console) -> _TrialRun:
    """Return the trial with its evaluation on the bf16 base, without its model."""
    from trainer.training.distributed import DistributedState
    from trainer.training.parity import AfterTraining, evaluate_if_it_fits

    began = time.perf_counter()
    evaluation, vectors = evaluate_if_it_fits(
        data, run.recipe, run.trained, run.after, DistributedState(), teller(console)
    )
    wall_s = run.wall_s + time.perf_counter() - began
    after = AfterTraining(None, run.after.quantized)
    return replace(run, evaluation=evaluation, vectors=tuple(vectors), wall_s=wall_s, after=after)


def _eval_losses(runs: Sequence[_TrialRun]) -> list[float]:
    """Return the eval losses on the bf16 base; those of training where memory was too small for it."""
    on_bf16 = [run.evaluation.eval_loss for run in runs if run.evaluation is not None]
    measured = [loss for loss in on_bf16 if loss is not None]
    losses = measured if len(measured) == len(runs) else [run.trained.eval_loss for run in runs]
    return [loss for loss in losses if loss is not None]


def _write(
    folder: Path, data: PreparedData, best: _TrialRun, results: list[Trial], advice: dict[str, Any] | None
) -> "tuple[dict[str, object], tuple[StepMetrics, ...]]":
    from trainer.training.parity import write_parity

    assert best.evaluation is not None, "every trial is evaluated"
    write_parity(folder, best.vectors)
    facts = run_metadata(data, best.recipe, best.trained, best.evaluation, best.began_at, best.wall_s)
    facts["advice"] = advice
    facts["sweep"] = [asdict(trial) for trial in results]
    write_metrics(folder, best.metrics)
    with disk(folder):
        document = {"format": 2, "trials": facts["sweep"]}
        (folder / SWEEP_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        points = [(t.learning_rate, t.eval_loss, f"r {t.r}") for t in results]
        save_sweep(folder / "sweep.svg", best.recipe.name, points)
    digest = save_weights(folder, data, best.recipe, best.trained)
    return write_run(folder, data, best.recipe, digest, facts, best.metrics), best.metrics


def _trial(run: _TrialRun, eval_loss: float) -> Trial:
    recipe, trained = run.recipe, run.trained
    return Trial(
        r=recipe.lora.r,
        learning_rate=recipe.training.learning_rate,
        seed=recipe.seed,
        train_loss=trained.train_loss,
        eval_loss=eval_loss,
        best_epoch=trained.best_epoch or 0,
        wall_s=round(run.wall_s, 3),
    )
