"""One run from recipe to run directory: read, render, train, save, prove."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from trainer.training.artifacts import RunRecord, write_adapter, write_model
from trainer.training.base import prepare_libraries
from trainer.training.checkpoint import StopRequest
from trainer.training.dataset import LoadedData, PreparedData, load_data, prepare_data
from trainer.training.metrics_log import MetricsRecorder, NoMetrics, TrainingProgress
from trainer.training.recipe import Recipe
from trainer.training.run_directory import default_directory, interrupted_run, staged, staging_folder
from trainer.training.run_metadata import row_lines, run_metadata
from trainer.training.tracking import check_trackers, tracking

if TYPE_CHECKING:
    from trainer.training.distributed import DistributedState
    from trainer.training.loop import TrainedWeights
    from trainer.training.metrics_log import StepMetrics
    from trainer.training.model import TrainableModel
    from trainer.training.parity import ParityVector
    from trainer.training.run_metadata import Bf16BaseEval


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, the facts of training.json, and the logged steps."""

    directory: Path
    facts: dict[str, Any]
    metrics: "tuple[StepMetrics, ...]"


@dataclass(frozen=True)
class TrainOptions:
    """How to run a recipe, which changes nothing about what is learnt.

    `advice` is what was advised before, `task` what will judge the outcome. `check` is called with everything read and
    rendered, before any training; it raises what is to stop the run.
    """

    resume: bool = False
    auto_batch: bool = False
    report_to: tuple[str, ...] = ()
    advice: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    check: Callable[[PreparedData], None] | None = None


@dataclass
class _Job:
    """What the steps of one run share."""

    recipe: Recipe
    material: PreparedData
    folder: Path
    console: Console
    options: TrainOptions
    processes: "DistributedState"
    began: float = field(default_factory=time.perf_counter)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def train(
    recipe: Recipe, data_dir: Path, console: Console, *, out: Path | None = None, options: TrainOptions | None = None
) -> Run | None:
    """Train into `out`, or a new run directory, which appears only once it is complete and fit to serve.

    Raises `DataError` before torch is even imported when the data is not clean, `Interrupted` when asked to stop, and
    `RunError` for what fails later. In a distributed run only the first process writes; the others return None.
    """
    options = options or TrainOptions()
    check_trackers(options.report_to)
    rows = load_data(recipe)
    warn(rows, console)
    prepare_libraries()
    from trainer.training.distributed import distributed_state
    from trainer.training.parity import evaluate_on_bf16_base

    with distributed_state() as processes:
        console.quiet = console.quiet or not processes.is_first
        final = Path(processes.agree(str(_place(recipe, data_dir, out, resume=options.resume))))
        with _folder(final, processes, resume=options.resume) as folder:
            material = prepare_data(recipe, rows, data_dir, console)
            if options.check is not None:
                options.check(material)
            job = _Job(recipe, material, folder, console, options, processes)
            console.print(_summary(material), highlight=False, soft_wrap=True)
            trained, metrics, learner = _optimise(job)
            if not (processes.is_first or processes.splits_base):
                return None
            proof = evaluate_on_bf16_base(material, recipe, trained, learner)
            if not processes.is_first:
                return None
            facts = _finish(job, trained, metrics, proof)
    return Run(final, facts, metrics)


def warn(rows: LoadedData, console: Console) -> None:
    """Show the first warnings about the data."""
    for warning in rows.warnings[:10]:
        console.print(Text.assemble(("warning: ", "yellow"), str(warning)), soft_wrap=True)


def _place(recipe: Recipe, data_dir: Path, out: Path | None, *, resume: bool) -> Path:
    if out is not None:
        return out
    return interrupted_run(data_dir, recipe.name) if resume else default_directory(data_dir, recipe.name)


@contextmanager
def _folder(final: Path, processes: "DistributedState", *, resume: bool) -> Iterator[Path]:
    """The run's folder, made by the first process before any other looks into it."""
    with ExitStack() as stack:
        if processes.is_first:
            stack.enter_context(staged(final, resume=resume))
        processes.wait_for_all()
        yield staging_folder(final)


def _optimise(job: _Job) -> "tuple[TrainedWeights, tuple[StepMetrics, ...], TrainableModel]":
    recipe, material, is_first = job.recipe, job.material, job.processes.is_first
    with TrainingProgress(job.console) as progress:
        from trainer.training.checkpoint import Checkpoints
        from trainer.training.loop import FitConfig, fit
        from trainer.training.model import device_of_this_process, load_base

        recipe = fit_into_memory(material, recipe, auto_batch=job.options.auto_batch, processes=job.processes)
        device = device_of_this_process(job.processes.local_rank)
        nf4, parts = recipe.method == "qlora", job.processes.parts
        base = load_base(material.base.directory, device, nf4=nf4, parts=parts)
        trackers = job.options.report_to if is_first else ()
        with tracking(trackers, job.folder, recipe) as track, StopRequest() as stop:
            watcher = MetricsRecorder(job.folder, progress, track) if is_first else NoMetrics()
            checkpoints = Checkpoints(job.folder, material.identity)
            conditions = FitConfig(checkpoints, job.processes, stop.requested, job.options.auto_batch)
            learner, trained = fit(material, recipe, base, watcher, conditions)
    metrics = tuple(watcher.metrics) if isinstance(watcher, MetricsRecorder) else ()
    return trained, metrics, learner


def _finish(
    job: _Job,
    trained: "TrainedWeights",
    metrics: "tuple[StepMetrics, ...]",
    proof: "tuple[Bf16BaseEval, list[ParityVector]]",
) -> dict[str, Any]:
    from trainer.training.checkpoint import Checkpoints
    from trainer.training.parity import write_parity

    material, recipe = job.material, job.recipe
    served, vectors = proof
    write_parity(job.folder, vectors)
    facts = run_metadata(material, recipe, trained, served, job.began_at, time.perf_counter() - job.began)
    facts["advice"] = job.options.advice
    if job.options.task:
        facts["task"] = job.options.task
    facts = write_run(job.folder, material, recipe, trained, facts, metrics)
    Checkpoints(job.folder, {}).remove()
    return facts


def fit_into_memory(
    material: PreparedData, recipe: Recipe, *, auto_batch: bool, processes: "DistributedState | None" = None
) -> Recipe:
    """The recipe with as many tokens at once as fit when `auto_batch` is asked; raises `OutOfMemoryError`."""
    from trainer.training.distributed import DistributedState
    from trainer.training.memory import fitting_tokens, free_bytes, refuse_what_does_not_fit

    longest = max(row.tokens for row in material.train.rows) * (2 if recipe.method == "dpo" else 1)
    processes = processes or DistributedState()
    free, parts = int(processes.least(free_bytes())), processes.parts
    if auto_batch:
        fits = fitting_tokens(material.base_model, recipe, longest, free, parts)
        training = recipe.training.model_copy(update={"max_tokens_per_batch": fits})
        recipe = recipe.model_copy(update={"training": training})
    refuse_what_does_not_fit(material.base_model, recipe, longest, free, parts)
    return recipe


def write_run(
    folder: Path,
    material: PreparedData,
    recipe: Recipe,
    trained: "TrainedWeights",
    facts: dict[str, Any],
    metrics: "tuple[StepMetrics, ...]",
) -> dict[str, Any]:
    """Write the files of a run and return its facts with the digest; raises `RunError` when it is not fit to serve."""
    places = {
        "recipe_folder": str(recipe.directory.resolve()),
        "base_folder": str(material.base.directory.resolve()),
    }
    account = RunRecord(facts, metrics, row_lines(material), places)
    if recipe.method == "full":
        return write_model(folder, recipe, material.base_model, trained, account)
    return write_adapter(folder, recipe, material.base_model, material.base.name, trained, account)


def _summary(material: PreparedData) -> str:
    train, valid, dropped = material.train, material.valid, len(material.train.dropped_lines)
    left_out = f", {dropped} too long and left out" if dropped else ""
    return (
        f"{material.recipe.name}: {len(train.rows)} rows to train on{left_out}, {len(valid.rows)} held out, "
        f"{train.trained_tokens:,} learnt tokens per epoch, base {material.base.name}"
    )
