"""One run from recipe to run directory: read, render, train, save, prove."""

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from adapters import AdapterError, BaseModel
from trainer.artifact import default_directory, staged, write_artifact
from trainer.base import Base, find_base
from trainer.errors import RunError
from trainer.progress import TrainingProgress
from trainer.recipe import Recipe
from trainer.splits import Part, Split, read_split

if TYPE_CHECKING:
    from trainer.curves import StepMetrics
    from trainer.optimise import Trained
    from trainer.rendering import RenderedSet, Renderer

_LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors", "tokenizers")


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, the facts of training.json, and the logged steps."""

    directory: Path
    facts: dict[str, Any]
    metrics: "tuple[StepMetrics, ...]"


@dataclass(frozen=True)
class _Material:
    """Everything a run is made of, checked and rendered."""

    recipe: Recipe
    base: Base
    base_model: BaseModel
    split: Split
    renderer: "Renderer"
    train: "RenderedSet"
    valid: "RenderedSet"


def train(recipe: Recipe, data_dir: Path, console: Console, *, out: Path | None = None) -> Run:
    """Train an adapter into `out`, or a new run directory, which appears only once it is complete and fit to serve.

    Raises `DataError` before torch is even imported when the data is not clean, and `RunError` for what fails later.
    """
    began, began_at = time.perf_counter(), datetime.now(UTC)
    split = read_split(recipe)
    for warning in split.warnings[:10]:
        console.print(Text.assemble(("warning: ", "yellow"), str(warning)), soft_wrap=True)
    final = out or default_directory(data_dir, recipe.name)
    with staged(final) as staging:
        base = find_base(recipe.base_model, relative_to=recipe.directory, data_dir=data_dir, console=console)
        material = _prepare(recipe, split, base)
        console.print(_summary(material), highlight=False, soft_wrap=True)
        with tempfile.TemporaryDirectory(dir=staging) as scratch:
            trained = _optimise(material, Path(scratch), console)
        facts = _facts(material, trained, began_at, time.perf_counter() - began)
        write_artifact(staging, recipe, material.base_model, material.base.name, trained, facts)
    return Run(final, facts, trained.metrics)


def _prepare(recipe: Recipe, split: Split, base: Base) -> _Material:
    from trainer.rendering import Renderer, render_all

    try:
        base_model = BaseModel.read(base.directory)
    except AdapterError as error:
        raise RunError(f"base_model: {error}") from error
    renderer = Renderer.load(base.directory)
    limit = min(recipe.training.max_length, renderer.longest_context)

    def rendered(part: Part) -> "RenderedSet":
        return render_all(renderer, part.path, part.examples, max_length=limit, allow_drop=recipe.training.allow_drop)

    return _Material(recipe, base, base_model, split, renderer, rendered(split.train), rendered(split.valid))


def _optimise(material: _Material, scratch: Path, console: Console) -> "Trained":
    with TrainingProgress(console) as progress:
        from trainer.optimise import optimise

        return optimise(
            material.recipe,
            material.base.directory,
            material.renderer,
            material.train.rows,
            material.valid.rows,
            scratch=scratch,
            progress=progress,
        )


def _summary(material: _Material) -> str:
    train, valid, dropped = material.train, material.valid, len(material.train.dropped_lines)
    left_out = f", {dropped} too long and left out" if dropped else ""
    return (
        f"{material.recipe.name}: {len(train.rows)} rows to train on{left_out}, {len(valid.rows)} held out, "
        f"{train.trained_tokens:,} learnt tokens per epoch, base {material.base.name}"
    )


def _facts(material: _Material, trained: "Trained", began_at: datetime, wall_s: float) -> dict[str, Any]:
    recipe, per_epoch = material.recipe, material.train.trained_tokens
    return {
        "format": 1,
        "name": recipe.name,
        "base_model": material.base.name,
        "base_config_sha256": material.base_model.config_sha256,
        "chat_template_sha256": material.renderer.chat_template_sha256,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "data": {
            "train": _part_facts(recipe.train, material.split.train, material.train),
            "valid": _part_facts(recipe.valid or recipe.train, material.split.valid, material.valid),
        },
        "seed": recipe.seed,
        "target_modules": trained.target_modules,
        "trainable_parameters": trained.trainable_parameters,
        "steps": trained.steps,
        "best_epoch": trained.best_epoch,
        "train_loss": trained.train_loss,
        "valid_loss_before": trained.valid_loss_before,
        "valid_loss": trained.valid_loss,
        "trained_tokens_per_epoch": per_epoch,
        "trained_tokens": per_epoch * recipe.training.num_train_epochs,
        "input_tokens": trained.input_tokens,
        "device": trained.device,
        "started_at": began_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps_s": round(trained.steps_s, 3),
        "wall_s": round(wall_s, 3),
        "versions": {library: version(library) for library in _LIBRARIES},
    }


def _part_facts(file: str, part: Part, rendered: "RenderedSet") -> dict[str, Any]:
    return {
        "file": file,
        "sha256": part.sha256,
        "rows": len(rendered.rows),
        "dropped_lines": list(rendered.dropped_lines),
    }
