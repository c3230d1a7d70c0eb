"""Experiment trackers (`--report-to`): TensorBoard, MLflow or Weights & Biases, each writing to local files.

Nothing leaves the machine unless the tracker's own environment asks for it (MLFLOW_TRACKING_URI, WANDB_MODE=online).
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import RunError
from trainer.training.recipe import Recipe

Track = Callable[[dict[str, float], int], None]
TRACKERS = ("tensorboard", "mlflow", "wandb")


@contextmanager
def tracking(names: tuple[str, ...], folder: Path, recipe: Recipe) -> Iterator[Track]:
    """Yield a function that sends metrics to every named tracker; raises `RunError` for one that is missing."""
    with ExitStack() as stack:
        tracks = [stack.enter_context(_opened(name, folder, recipe)) for name in names]

        def track(metrics: dict[str, float], step: int) -> None:
            for one in tracks:
                one(metrics, step)

        yield track


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise `RunError` unless every tracker is known and installed."""
    for name in names:
        if name not in TRACKERS:
            raise RunError(f"--report-to {name} is not known; use {', '.join(TRACKERS)}.")
        _package(name)


@contextmanager
def _opened(name: str, folder: Path, recipe: Recipe) -> Iterator[Track]:
    opener = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}[name]
    with opener(_package(name), folder, recipe) as track:
        yield track


def _package(name: str) -> Any:
    try:
        return importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise RunError(f"--report-to {name} needs the package {name}; install it: pip install {name}.") from error


@contextmanager
def _tensorboard(package: Any, folder: Path, recipe: Recipe) -> Iterator[Track]:
    writer = package.SummaryWriter(log_dir=str(folder / "tensorboard"))
    try:

        def track(metrics: dict[str, float], step: int) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        yield track
    finally:
        writer.close()


@contextmanager
def _mlflow(package: Any, folder: Path, recipe: Recipe) -> Iterator[Track]:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        package.set_tracking_uri(f"sqlite:///{folder.parent.resolve() / 'mlflow.db'}")
    package.set_experiment(recipe.name)
    with package.start_run():
        package.log_params({"recipe_sha256": recipe.sha256, **recipe.training.model_dump()})
        yield lambda metrics, step: package.log_metrics(metrics, step=step)


@contextmanager
def _wandb(package: Any, folder: Path, recipe: Recipe) -> Iterator[Track]:
    os.environ.setdefault("WANDB_MODE", "offline")
    quiet = package.Settings(silent=True)  # it prints a folder that is renamed once the run is complete
    with package.init(
        project=recipe.name, dir=str(folder), config=recipe.model_dump(mode="json"), settings=quiet
    ) as run:
        yield lambda metrics, step: run.log(metrics, step=step)
