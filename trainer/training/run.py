"""One run from recipe to run directory: load, render, train, evaluate, write."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from trainer.errors import RunError
from trainer.training.artifacts import RunRecord, save_adapter, save_model, write_record
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
    from trainer.training.parity import AfterTraining, ParityVector
    from trainer.training.run_metadata import Bf16BaseEval


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, the metadata in training.json, and the logged steps."""

    directory: Path
    facts: dict[str, Any]
    metrics: "tuple[StepMetrics, ...]"


@dataclass(frozen=True)
class TrainOptions:
    """How to run a recipe; nothing here changes the weights.

    `advice` and `task` go into the metadata. `check` is called with the rendered rows before training starts, and
    raises an error to stop the run. `despite_data` is the reason to train on data with red findings.
    """

    resume: bool = False
    auto_batch: bool = False
    report_to: tuple[str, ...] = ()
    advice: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    check: Callable[[PreparedData], None] | None = None
    despite_data: str | None = None


@dataclass
class _Job:
    """The values that the steps of one run share."""

    recipe: Recipe
    data: PreparedData
    folder: Path
    console: Console
    options: TrainOptions
    distributed: "DistributedState"
    began: float = field(default_factory=time.perf_counter)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class _Fitted:
    """The result of training, on rank 0 and with FSDP on every rank: weights, logged steps, digest, and the model."""

    trained: "TrainedWeights"
    metrics: "tuple[StepMetrics, ...]"
    digest: str
    after: "AfterTraining"


def train(
    recipe: Recipe, data_dir: Path, console: Console, *, out: Path | None = None, options: TrainOptions | None = None
) -> Run | None:
    """Train into `out`, or a new run directory, which appears only once it is complete and fit to serve.

    Raises `DataError` for red data before torch is imported, `Interrupted` when asked to stop, and `RunError` for later
    failures. In a distributed run only rank 0 writes; the other ranks return None.
    """
    options = options or TrainOptions()
    check_trackers(options.report_to)
    rows = load_data(recipe, options.despite_data, data_dir)
    print_warnings(rows, console)
    prepare_libraries()
    from trainer.training.distributed import distributed_state, refuse_idle_ranks
    from trainer.training.parity import evaluate_if_it_fits

    with distributed_state() as distributed:
        console.quiet = console.quiet or not distributed.is_main
        refuse_idle_ranks(recipe.training.effective_batch_size, distributed)
        final = Path(distributed.broadcast(str(_final_directory(recipe, data_dir, out, resume=options.resume))))
        with _run_folder(final, distributed, resume=options.resume) as folder:
            data = prepare_data(recipe, rows, data_dir, console)
            if options.check is not None:
                options.check(data)
            job = _Job(recipe, data, folder, console, options, distributed)
            console.print(_summary(data), highlight=False, soft_wrap=True)
            fitted = _fit(job)
            if fitted is None:
                return None
            say = teller(console)
            measured = evaluate_if_it_fits(data, recipe, fitted.trained, fitted.after, distributed, say)
            if not distributed.is_main:
                return None
            facts = _finish(job, fitted, *measured)
    return Run(final, facts, fitted.metrics)


def print_warnings(rows: LoadedData, console: Console) -> None:
    """Print the amber findings of the data, and the red ones that were accepted."""
    for finding in (*rows.accepted, *rows.warnings):
        console.print(Text.assemble(("warning: ", "yellow"), str(finding)), soft_wrap=True)


def _final_directory(recipe: Recipe, data_dir: Path, out: Path | None, *, resume: bool) -> Path:
    if out is not None:
        return out
    return interrupted_run(data_dir, recipe.name) if resume else default_directory(data_dir, recipe.name)


@contextmanager
def _run_folder(final: Path, distributed: "DistributedState", *, resume: bool) -> Iterator[Path]:
    """Make the run's staging folder on rank 0 before any other rank looks into it."""
    with ExitStack() as stack:
        refusal = ""
        if distributed.is_main:
            try:
                stack.enter_context(staged(final, resume=resume))
            except RunError as error:
                refusal = str(error)
        if refusal := distributed.broadcast(refusal):
            raise RunError(refusal)
        yield staging_folder(final)


def _fit(job: _Job) -> _Fitted | None:
    """Train, and save the weights before anything else is done with them; None on ranks with nothing more to do."""
    recipe, data, distributed = job.recipe, job.data, job.distributed
    with TrainingProgress(job.console) as progress:
        from trainer.training.checkpoint import WORLD_SIZE, Checkpoints
        from trainer.training.loop import FitConfig, fit
        from trainer.training.model import load_base, local_device
        from trainer.training.parity import AfterTraining

        say = teller(job.console)
        recipe = fit_into_memory(data, recipe, say, auto_batch=job.options.auto_batch, distributed=distributed)
        device, nf4 = local_device(distributed.local_rank), recipe.method == "qlora"
        base = load_base(data.base.directory, device, nf4=nf4, shards=distributed.base_shards)
        trackers = job.options.report_to if distributed.is_main else ()
        with tracking(trackers, job.folder, recipe) as track, StopRequest() as stop:
            listener = MetricsRecorder(job.folder, progress, track) if distributed.is_main else NoMetrics()
            checkpoints = Checkpoints(job.folder, data.identity | {WORLD_SIZE: str(distributed.world_size)})
            config = FitConfig(checkpoints, distributed, stop.requested, job.options.auto_batch, say)
            model, trained = fit(data, recipe, base, listener, config)
    if not (distributed.is_main or distributed.fsdp):
        return None
    digest = save_weights(job.folder, data, recipe, trained) if distributed.is_main else ""
    metrics = tuple(listener.metrics) if isinstance(listener, MetricsRecorder) else ()
    return _Fitted(trained, metrics, digest, AfterTraining.of(model, data, trained))


def teller(console: Console) -> Callable[[str], None]:
    """Return a function that prints a sentence."""
    return lambda sentence: console.print(sentence, highlight=False, soft_wrap=True)


def _finish(job: _Job, fitted: _Fitted, evaluation: "Bf16BaseEval", vectors: "list[ParityVector]") -> dict[str, Any]:
    from trainer.training.checkpoint import Checkpoints
    from trainer.training.parity import write_parity

    data, recipe = job.data, job.recipe
    write_parity(job.folder, vectors)
    facts = run_metadata(data, recipe, fitted.trained, evaluation, job.began_at, time.perf_counter() - job.began)
    facts["advice"] = job.options.advice
    if job.options.task:
        facts["task"] = job.options.task
    facts = write_run(job.folder, data, recipe, fitted.digest, facts, fitted.metrics)
    Checkpoints(job.folder, {}).remove()
    return facts


def fit_into_memory(
    data: PreparedData,
    recipe: Recipe,
    say: Callable[[str], None],
    *,
    auto_batch: bool,
    distributed: "DistributedState | None" = None,
) -> Recipe:
    """Return the recipe, with `auto_batch` with the largest micro-batch that fits; raises `OutOfMemoryError`.

    Says so when QLoRA fits and its evaluation on the bf16 base does not.
    """
    from trainer.training.distributed import DistributedState
    from trainer.training.memory import (
        evaluation_bytes,
        fitting_tokens,
        free_bytes,
        refuse_oversized,
        too_large_for_evaluation,
    )

    longest = max(row.tokens for row in data.train.rows) * (2 if recipe.learns_pairs else 1)
    distributed = distributed or DistributedState()
    free, shards = int(distributed.min(free_bytes())), distributed.base_shards
    if auto_batch:
        fits = fitting_tokens(data.base_model, recipe, longest, free, shards)
        training = recipe.training.model_copy(update={"max_tokens_per_batch": fits})
        recipe = recipe.model_copy(update={"training": training})
    refuse_oversized(data.base_model, recipe, longest, free, shards)
    if recipe.method == "qlora" and (needed := evaluation_bytes(data.base_model, recipe, longest, shards)) > free:
        say(f"{too_large_for_evaluation(needed, free)} The adapter will be trained and saved, but not evaluated on it.")
    return recipe


def save_weights(folder: Path, data: PreparedData, recipe: Recipe, trained: "TrainedWeights") -> str:
    """Write the trained weights and return their digest; raises `RunError` when they are unsound."""
    if recipe.method == "full":
        return save_model(folder, data.base_model, trained)
    return save_adapter(folder, recipe, data.base.name, trained)


def write_run(
    folder: Path,
    data: PreparedData,
    recipe: Recipe,
    digest: str,
    facts: dict[str, Any],
    metrics: "tuple[StepMetrics, ...]",
) -> dict[str, Any]:
    """Write the record beside the weights and return the metadata; raises `RunError` if they are not fit to serve."""
    locations = {
        "recipe_folder": str(recipe.directory.resolve()),
        "base_folder": str(data.base.directory.resolve()),
    }
    record = RunRecord(facts, metrics, row_lines(data), locations)
    return write_record(folder, recipe, data.base_model, record, digest)


def _summary(data: PreparedData) -> str:
    train, valid, dropped = data.train, data.valid, len(data.train.dropped_lines)
    left_out = f", {dropped} too long and left out" if dropped else ""
    return (
        f"{data.recipe.name}: {len(train.rows)} training rows{left_out}, {len(valid.rows)} held out, "
        f"{train.loss_tokens:,} loss tokens per epoch, base {data.base.name}"
    )
