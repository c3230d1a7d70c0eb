"""training.json: what was trained on what, with which result, in figures and hashes."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from adapters.manifest import file_sha256
from trainer.training.artifacts import answer_baseline
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from trainer.training.dataset import LoadedSplit, PreparedData
    from trainer.training.loop import TrainedWeights
    from trainer.training.loss_mask import RenderedSet

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")


@dataclass(frozen=True, slots=True)
class Bf16BaseEval:
    """The weights on the base as it is served; the losses and the drift differ from training's after qlora alone.

    `effect` is the mean difference that the adapter makes to a log-probability, `drift` the one that NF4 makes.
    """

    valid_loss_before: float | None
    valid_loss: float | None
    effect: float | None
    drift: float | None

    @property
    def document(self) -> dict[str, float | None]:
        """As training.json keeps it."""
        losses = {"valid_loss_before": self.valid_loss_before, "valid_loss": self.valid_loss}
        return losses | {"effect": self.effect, "nf4_drift": self.drift}


def run_metadata(
    material: "PreparedData",
    recipe: Recipe,
    trained: "TrainedWeights",
    served: Bf16BaseEval,
    began_at: datetime,
    wall_s: float,
) -> dict[str, Any]:
    """Everything of training.json but the digest."""
    tokenizer = material.base.directory / "tokenizer.json"
    return {
        "format": 2,
        "name": recipe.name,
        "method": recipe.method,
        "base_model": material.base.name,
        "base_config_sha256": material.base_model.config_sha256,
        "base_weights_sha256": material.base_weights_sha256,
        "tokenizer_sha256": file_sha256(tokenizer) if tokenizer.is_file() else None,
        "chat_template_sha256": material.renderer.chat_template_sha256,
        "recipe": recipe.model_dump(mode="json", exclude={"sweep"}),
        "recipe_sha256": recipe.sha256,
        "data": _data(material),
        "baseline": answer_baseline(material),
        "seed": recipe.seed,
        "target_modules": trained.target_modules,
        "trainable_parameters": trained.trainable_parameters,
        "steps": trained.steps,
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "train_loss": trained.train_loss,
        "valid_loss_before": trained.valid_loss_before,
        "valid_loss": trained.valid_loss,
        "on_served_base": served.document,
        "trained_tokens_per_epoch": material.train.trained_tokens,
        "trained_tokens": material.train.trained_tokens * trained.epochs,
        "input_tokens": trained.input_tokens,
        "max_tokens_per_batch": trained.max_tokens_per_batch,
        "device": trained.device,
        "processor": platform.machine(),
        "arithmetic": trained.arithmetic,
        "threads": trained.threads,
        "processes": trained.processes,
        "base_parts": trained.base_parts,
        "started_at": began_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps_s": round(trained.steps_s, 3),
        "wall_s": round(wall_s, 3),
        "versions": {library: version(library) for library in _LIBRARIES} | {"python": platform.python_version()},
    }


def row_lines(material: "PreparedData") -> list[dict[str, Any]]:
    """rows.jsonl: which rows a run saw, by identity, file and line, and on which side."""
    lines = []
    sides = (("train", material.rows.train, material.train), ("valid", material.rows.valid, material.valid))
    for name, side, rendered in sides:
        dropped = set(rendered.dropped_lines)
        file = os.path.normpath(side.name)
        lines += [
            {"row_id": row.row_id, "file": file, "line": row.line, "part": "dropped" if row.line in dropped else name}
            for row in side.rows
        ]
    return lines


def _data(material: "PreparedData") -> dict[str, Any]:
    train, valid = material.rows.train, material.rows.valid
    return {"train": _side(train, material.train), "valid": _side(valid, material.valid)}


def _side(side: "LoadedSplit", rendered: "RenderedSet[Any]") -> dict[str, Any]:
    return {
        "file": side.name,
        "sha256": side.sha256,
        "rows": len(rendered.rows),
        "dropped_lines": list(rendered.dropped_lines),
    }
