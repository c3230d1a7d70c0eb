"""The metadata of a run, training.json: recipe, hashes of data and base, losses, and the environment.

Format 3. Formats 1 and 2 call the eval loss `valid_loss`, the loss tokens `trained_tokens`, the world size `processes`,
the base shards `base_parts` and the evaluation on the bf16 base `on_served_base`; `read_metadata` renames them.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.answer_profile import STOP, Baseline, ProfiledAnswer
from adapters.manifest import TRAINING_FILE
from trainer.data.schema import Example, Pair
from trainer.errors import RunError
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from trainer.training.dataset import LoadedSplit, PreparedData
    from trainer.training.loop import TrainedWeights
    from trainer.training.loss_mask import RenderedExample, RenderedSet

FORMAT = 3
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")
_BEFORE_FORMAT_3 = {
    "valid_loss": "eval_loss",
    "valid_loss_before": "eval_loss_before",
    "trained_tokens": "loss_tokens",
    "trained_tokens_per_epoch": "loss_tokens_per_epoch",
    "processes": "world_size",
    "base_parts": "base_shards",
    "on_served_base": "on_bf16_base",
    "effect": "mean_logprob_change",
    "nf4_drift": "quantization_error",
}


@dataclass(frozen=True, slots=True)
class Bf16BaseEval:
    """The evaluation on the base in bf16, as it is served; losses differ from those of training after qlora alone.

    `mean_logprob_change` is the mean absolute change of a log-probability by the adapter, `quantization_error` the one
    by NF4.
    """

    eval_loss_before: float | None
    eval_loss: float | None
    mean_logprob_change: float | None
    quantization_error: float | None

    @property
    def document(self) -> dict[str, float | None]:
        """The figures as training.json keeps them."""
        return {
            "eval_loss_before": self.eval_loss_before,
            "eval_loss": self.eval_loss,
            "mean_logprob_change": self.mean_logprob_change,
            "quantization_error": self.quantization_error,
        }


def run_metadata(
    data: "PreparedData",
    recipe: Recipe,
    trained: "TrainedWeights",
    evaluation: Bf16BaseEval,
    began_at: datetime,
    wall_s: float,
) -> dict[str, Any]:
    """Return training.json without the digest."""
    return {
        "format": FORMAT,
        "name": recipe.name,
        "method": recipe.method,
        "base_model": data.base.name,
        "base_config_sha256": data.base_model.config_sha256,
        "base_weights_sha256": data.base_weights_sha256,
        **_rendering(data),
        "recipe": recipe.model_dump(mode="json", exclude={"sweep"}),
        "recipe_sha256": recipe.sha256,
        "data": {"train": _split(data.rows.train, data.train), "valid": _split(data.rows.valid, data.valid)},
        "initial_adapter": data.initial.document if data.initial else None,
        "despite_data": data.rows.despite_document,
        "baseline": answer_baseline(data),
        "seed": recipe.seed,
        "target_modules": trained.target_modules,
        "self_check": trained.self_check.document,
        "trainable_parameters": trained.trainable_parameters,
        **_losses(trained),
        "on_bf16_base": evaluation.document,
        "loss_tokens_per_epoch": data.train.loss_tokens,
        "loss_tokens": round(data.train.loss_tokens * trained.epochs),
        "input_tokens": trained.input_tokens,
        "max_tokens_per_batch": trained.max_tokens_per_batch,
        "device": trained.device,
        "processor": platform.machine(),
        "arithmetic": trained.arithmetic,
        "threads": trained.threads,
        "world_size": trained.world_size,
        "base_shards": trained.base_shards,
        "started_at": began_at.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "steps_s": round(trained.steps_s, 3),
        "wall_s": round(wall_s, 3),
        "versions": {library: version(library) for library in _LIBRARIES} | {"python": platform.python_version()},
    }


def _losses(trained: "TrainedWeights") -> dict[str, Any]:
    return {
        "steps": trained.steps,
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
        "train_loss": trained.train_loss,
        "eval_loss_before": trained.eval_loss_before,
        "eval_loss": trained.eval_loss,
        "rewards": trained.rewards,
    }


def read_metadata(directory: Path) -> dict[str, Any]:
    """Read training.json of a finished run in the names of format 3; raises `RunError`."""
    path = directory / TRAINING_FILE
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read; give the directory of a finished run of this machine.") from error
    return current_names(document)


def current_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a training.json of any format under the names of format 3."""
    if document.get("format", 1) >= FORMAT:
        return dict(document)
    renamed = {_BEFORE_FORMAT_3.get(name, name): value for name, value in document.items()}
    if isinstance(evaluation := renamed.get("on_bf16_base"), dict):
        renamed["on_bf16_base"] = {_BEFORE_FORMAT_3.get(name, name): value for name, value in evaluation.items()}
    return renamed


def row_lines(data: "PreparedData") -> list[dict[str, Any]]:
    """Return rows.jsonl: identity, file, line and split of every row that the run read."""
    lines = []
    splits = (("train", data.rows.train, data.train), ("valid", data.rows.valid, data.valid))
    for name, split, rendered in splits:
        dropped = rendered.dropped_ids
        for file in split.files:
            path = os.path.normpath(file.name)
            lines += [
                {"row_id": row_id, "file": path, "line": line, "part": "dropped" if row_id in dropped else name}
                for line, row_id in dict.fromkeys((row.line, row.row_id) for row in file.rows)
            ]
    return lines


def answer_baseline(data: "PreparedData") -> dict[str, Any] | None:
    """Profile the last answer of every training row, for comparison with live answers; all end with a stop token.

    Bad answers of kto are left out.
    """
    from trainer.training.loss_mask import answer_of

    rows = {row.row_id: _preferred(row) for row in data.rows.train.rows}
    answers = []
    for rendered in {one.row_id: one for one in data.train.rows}.values():
        example = rows[rendered.row_id]
        if isinstance(example, Example) and data.recipe.method == "kto" and not example.is_good:
            continue
        prompt_tokens, completion_tokens = _last_answer(answer_of(rendered))
        text = example.messages[example.answer_index].content
        answers.append(ProfiledAnswer(text, prompt_tokens, completion_tokens, STOP))
    baseline = Baseline.of(answers)
    return None if baseline is None else baseline.model_dump(mode="json")


def cpu_arithmetic() -> str:
    """Return a fingerprint of how this CPU's kernels round, with the threads that torch has now.

    With AVX2, AVX-512 and AMX the same product is summed in another order, so the same run ends in other bytes.
    """
    import torch
    from torch.nn import functional

    numbers = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 2, 128, 512, generator=numbers) for _ in range(2))
    digest = hashlib.sha256()
    for precision in (torch.float32, torch.bfloat16):
        left, right = one.to(precision), other.to(precision)
        for result in (left @ right.mT, functional.scaled_dot_product_attention(left, right, left, is_causal=True)):
            digest.update(result.float().numpy().tobytes())
    return digest.hexdigest()[:12]


def _rendering(data: "PreparedData") -> dict[str, Any]:
    return {
        "tokenizer_sha256": data.base_model.tokenizer_sha256,
        "chat_template_sha256": data.renderer.chat_template_sha256,
        "chat_template_kwargs": dict(data.recipe.data.chat_template_kwargs),
    }


def _split(split: "LoadedSplit", rendered: "RenderedSet[Any]") -> dict[str, Any]:
    return {
        "file": split.name,
        "files": [file.document for file in split.files],
        "sha256": split.sha256,
        "rows": rendered.row_count,
        "examples": len(rendered.rows),
        "dropped_lines": list(rendered.dropped_lines),
        "special_token_lines": list(rendered.control_lines),
    }


def _preferred(row: Example | Pair) -> Example:
    return row if isinstance(row, Example) else row.preferred


def _last_answer(row: "RenderedExample") -> tuple[int, int]:
    """Return the number of tokens before the last answer, and of the answer with its stop token."""
    from trainer.training.loss_mask import IGNORE_INDEX

    in_loss = [index for index, label in enumerate(row.labels) if label != IGNORE_INDEX]
    end = first = in_loss[-1]
    while first > 0 and row.labels[first - 1] != IGNORE_INDEX:
        first -= 1
    return first, end - first + 1
