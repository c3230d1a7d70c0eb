"""Write the files of a finished run, and verify that its weights are fit to serve.

adapter_config.json, adapter_model.safetensors    the adapter in PEFT's layout, tensors in bf16; or, after full
config.json, model.safetensors, tokenizer…        fine-tuning, a model that is served as a base
training.json                                     the metadata of the run
parity.json                                       log-probabilities to compare a server with
rows.jsonl                                        the rows that the run read, for lineage
run.json                                          the folders of recipe and base; stays on this machine
metrics.jsonl, loss.svg                           the loss, step by step
rewards.svg, accuracy.svg                         the rewards of preference methods
README.md                                         the model card, generated from training.json
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, BaseModel, preflight
from adapters.manifest import CARD_FILE, CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, content_digest, file_sha256
from trainer.errors import RunError
from trainer.files import disk
from trainer.training.metrics_log import StepMetrics, has_rewards, save_loss_curve, save_reward_curves
from trainer.training.recipe import Lora, Recipe
from trainer.training.targets import renamed

if TYPE_CHECKING:
    import torch

    from trainer.training.loop import TrainedWeights


ROWS_FILE = "rows.jsonl"
RUN_FILE = "run.json"
MODEL_WEIGHTS_FILE = "model.safetensors"
_CARD_FIELDS = (
    "name",
    "method",
    "base_model",
    "finished_at",
    "loss_tokens",
    "loss_tokens_per_epoch",
    "steps",
    "train_loss",
    "seed",
    "trainable_parameters",
    "wall_s",
    "device",
)
_PATTERNS = ("rank_pattern", "alpha_pattern")
_NOT_COPIED = (".safetensors", ".bin", ".gguf", "base-model.json", "safetensors.index.json")

_CARD = """---
base_model: {base_model}
library_name: {library}
tags: [{tags}]
---

# {name}

{what} `{base_model}` with the method {method}, trained {finished_at}.

| | |
|---|---|
| training rows | {train_rows} ({train_sha}), {train_dropped} left out as too long |
| held-out rows | {valid_rows} |
| loss tokens | {loss_tokens:,} ({loss_tokens_per_epoch:,} per epoch) |
| steps, best epoch | {steps}, {best_epoch} |
| mean training loss | {train_loss:.4f} |
| eval loss, before and after | {eval_loss_before}, {eval_loss} |
{method_rows}| learning rate, seed | {learning_rate}, {seed} |
| trainable parameters | {trainable_parameters:,} |
| time | {wall_s:.0f} s on {device} |

![training loss and eval loss over the steps](loss.svg)

The loss was taken over assistant messages and their stop tokens only, rendered with the base model's own chat template
(`{template}`). The recipe has the hash `{recipe}`, the base model's config `{base}` and its weights `{weights}`;
training.json holds the record.
"""


@dataclass(frozen=True)
class RunRecord:
    """The data written beside the weights: metadata, logged steps, rows, and folders on this machine."""

    facts: Mapping[str, Any]
    metrics: Sequence[StepMetrics]
    rows: Sequence[Mapping[str, Any]]
    locations: Mapping[str, str]


def save_adapter(directory: Path, recipe: Recipe, base_name: str, trained: "TrainedWeights") -> str:
    """Write an adapter, without the record of its run, and return its digest; raises `RunError` when it is unsound."""
    from safetensors.torch import save_file

    prefix = trained.checkpoint_prefix
    config = adapter_config(recipe.lora, base_name, tuple(renamed(name, prefix) for name in trained.target_modules))
    tensors = {renamed(name, prefix): tensor for name, tensor in trained.tensors.items()}
    with disk(directory):
        save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / WEIGHTS_FILE).chmod(0o644)
        write_json(directory / CONFIG_FILE, config)
    _verify(directory / WEIGHTS_FILE, expected=set(tensors))
    return content_digest(config, file_sha256(directory / WEIGHTS_FILE))


def save_model(directory: Path, base: BaseModel, trained: "TrainedWeights") -> str:
    """Write the model of a full fine-tuning, which can be served as a base, and return its digest.

    Raises `RunError` when it is unsound.
    """
    from safetensors.torch import save_file

    with disk(directory):
        copy_model_files(base.path, directory)
        save_file(trained.tensors, directory / MODEL_WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / MODEL_WEIGHTS_FILE).chmod(0o644)
    _verify(directory / MODEL_WEIGHTS_FILE, expected=set(trained.tensors))
    if BaseModel.read(directory).modules != base.modules:
        raise RunError("the trained model has other modules than its base; its files are not fit to serve.")
    return file_sha256(directory / MODEL_WEIGHTS_FILE)


def write_record(directory: Path, recipe: Recipe, base: BaseModel, record: RunRecord, digest: str) -> dict[str, Any]:
    """Write the record of a run beside its weights, and return the metadata with their digest.

    Raises `RunError` when an adapter does not pass the gateway's preflight.
    """
    facts = _write_record(directory, recipe, record, digest)
    if recipe.method != "full":
        try:
            preflight(directory, base, max_rank=recipe.lora.max_rank)
        except AdapterError as error:
            raise RunError(f"the trained adapter is not fit to serve: {error}") from error
    return facts


def copy_model_files(source: Path, target: Path) -> None:
    """Copy a model's config, tokenizer and template, but not its weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(_NOT_COPIED) and path.name != CARD_FILE:
            shutil.copyfile(path, target / path.name)


def adapter_config(lora: Lora, base_name: str, target_modules: tuple[str, ...]) -> dict[str, Any]:
    """Return adapter_config.json with the fields that the engine serves."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(target_modules),
        "use_rslora": lora.use_rslora,
        **{name: dict(pattern) for name in _PATTERNS if (pattern := getattr(lora, name))},
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(facts: Mapping[str, Any]) -> str:
    """Return the model card, with the figures of training.json."""
    recipe, data = facts["recipe"], facts["data"]
    is_model = facts["method"] == "full"
    return _CARD.format(
        **{key: facts[key] for key in _CARD_FIELDS},
        **{key: _loss(facts[key]) for key in ("eval_loss_before", "eval_loss")},
        what="A model made from" if is_model else "A LoRA adapter for",
        library="transformers" if is_model else "peft",
        tags="turntable" if is_model else "lora, turntable",
        method_rows="" if is_model else _adapter_rows(facts),
        best_epoch="the last" if facts["best_epoch"] is None else facts["best_epoch"],
        train_rows=data["train"]["rows"],
        train_sha=f"sha256 {data['train']['sha256'][:12]}",
        train_dropped=len(data["train"]["dropped_lines"]),
        valid_rows=data["valid"]["rows"],
        learning_rate=recipe["training"]["learning_rate"],
        template=facts["chat_template_sha256"][:12],
        recipe=facts["recipe_sha256"][:12],
        base=facts["base_config_sha256"][:12],
        weights=facts["base_weights_sha256"][:12],
    )


def _write_record(directory: Path, recipe: Recipe, record: RunRecord, digest: str) -> dict[str, Any]:
    facts = {**record.facts, "digest": digest}
    with disk(directory):
        write_json(directory / TRAINING_FILE, facts)
        write_json(directory / RUN_FILE, record.locations)
        lines = (json.dumps(row, ensure_ascii=False) for row in record.rows)
        (directory / ROWS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (directory / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        save_loss_curve(directory / "loss.svg", recipe.name, record.metrics)
        if has_rewards(record.metrics):
            save_reward_curves(directory, recipe.name, record.metrics)
    return facts


def _verify(weights: Path, *, expected: set[str]) -> None:
    """Reopen the saved weights; raises `RunError` when one is missing, not finite, or never changed."""
    from safetensors.torch import load_file

    tensors: Mapping[str, torch.Tensor] = load_file(weights)
    if tensors.keys() != expected:
        raise RunError(f"{weights.name} has {len(tensors)} tensors, but {len(expected)} were trained; check the disk.")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"the loss diverged: {name} is not finite; lower training.learning_rate.")
        if ".lora_B." in name and not tensor.any():
            raise RunError(f"{name} is all zero: it was not trained; raise training.learning_rate or the epochs.")


def _adapter_rows(facts: Mapping[str, Any]) -> str:
    lora, served = facts["recipe"]["lora"], facts["on_bf16_base"]
    rows = [
        ("r, lora_alpha, lora_dropout", f"{lora['r']}, {lora['lora_alpha']}, {lora['lora_dropout']}"),
        ("target modules", ", ".join(facts["target_modules"])),
    ]
    for name, value in (facts.get("rewards") or {}).items():
        rows.append((f"reward {name} on held-out rows", f"{value:.4f}"))
    if initial := facts.get("initial_adapter"):
        rows.append(("begun from", f"{initial['ref']} ({initial['digest'][:12]})"))
    if served["mean_logprob_change"] is not None:
        rows.append(("mean absolute change of a log-probability", f"{served['mean_logprob_change']:.4f}"))
    if served["quantization_error"] is not None:
        before, after = _loss(served["eval_loss_before"]), _loss(served["eval_loss"])
        rows.append(("eval loss on the bf16 base, before and after", f"{before}, {after}"))
        rows.append(("mean absolute quantization error of a log-probability", f"{served['quantization_error']:.4f}"))
    return "".join(f"| {name} | {value} |\n" for name, value in rows)


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
