"""The files a run leaves behind, and the proof that what they hold is fit to serve.

adapter_config.json, adapter_model.safetensors    the adapter in PEFT's layout, tensors in bf16; or, after full
config.json, model.safetensors, tokenizer…        fine-tuning, a model that is served as a base
training.json                                     the facts of the run
parity.json                                       log-probabilities to compare a server with
rows.jsonl                                        which rows were seen: lineage
run.json                                          where recipe and data lay on this machine; stays here
metrics.jsonl, loss.svg                           the loss, step by step
README.md                                         the model card, generated from the facts

The baseline of a run: what the answers that it learnt from are like, for comparing live answers with them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError, BaseModel, preflight
from adapters.answer_profile import STOP, Baseline, ProfiledAnswer
from adapters.manifest import CARD_FILE, CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE, content_digest, file_sha256
from trainer.data.schema import Example, Pair
from trainer.errors import RunError
from trainer.files import disk
from trainer.training.metrics_log import StepMetrics, save_loss_curve
from trainer.training.model_card import model_card
from trainer.training.recipe import Lora, Recipe

if TYPE_CHECKING:
    import torch

    from trainer.training.fit import Trained
if TYPE_CHECKING:
    from trainer.training.loss_mask import Rendered
    from trainer.training.prepare import PreparedData


ROWS_FILE = "rows.jsonl"
RUN_FILE = "run.json"
MODEL_WEIGHTS_FILE = "model.safetensors"
_NOT_COPIED = (".safetensors", ".bin", ".gguf", "base-model.json", "safetensors.index.json")


@dataclass(frozen=True)
class RunRecord:
    """What is written beside the weights: facts, steps, rows, and where everything lay on this machine."""

    facts: Mapping[str, Any]
    metrics: Sequence[StepMetrics]
    rows: Sequence[Mapping[str, Any]]
    places: Mapping[str, str]


def write_adapter(
    directory: Path, recipe: Recipe, base: BaseModel, base_name: str, trained: "Trained", account: RunRecord
) -> dict[str, Any]:
    """Write all files of an adapter's run, prove it fit to serve, and return the facts with its digest.

    Raises `RunError` when it is not fit.
    """
    from safetensors.torch import save_file

    config = adapter_config(recipe.lora, base_name, trained.target_modules)
    with disk(directory):
        save_file(trained.tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / WEIGHTS_FILE).chmod(0o644)
        write_json(directory / CONFIG_FILE, config)
    digest = content_digest(config, file_sha256(directory / WEIGHTS_FILE))
    facts = _write_account(directory, recipe, account, digest)
    _verify(directory / WEIGHTS_FILE, expected=set(trained.tensors))
    try:
        preflight(directory, base, max_rank=recipe.lora.r)
    except AdapterError as error:
        raise RunError(f"the trained adapter is not fit to serve: {error}") from error
    return facts


def write_model(
    directory: Path, recipe: Recipe, base: BaseModel, trained: "Trained", account: RunRecord
) -> dict[str, Any]:
    """Write all files of a full fine-tuning, a model that can be served as a base; raises `RunError`."""
    from safetensors.torch import save_file

    with disk(directory):
        copy_model_files(base.path, directory)
        save_file(trained.tensors, directory / MODEL_WEIGHTS_FILE, metadata={"format": "pt"})
        (directory / MODEL_WEIGHTS_FILE).chmod(0o644)
    facts = _write_account(directory, recipe, account, file_sha256(directory / MODEL_WEIGHTS_FILE))
    _verify(directory / MODEL_WEIGHTS_FILE, expected=set(trained.tensors))
    if BaseModel.read(directory).modules != base.modules:
        raise RunError("the trained model has other modules than its base; its files are not fit to serve.")
    return facts


def copy_model_files(source: Path, target: Path) -> None:
    """Copy a model's config, tokenizer and template, but not its weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(_NOT_COPIED) and path.name != CARD_FILE:
            shutil.copyfile(path, target / path.name)


def adapter_config(lora: Lora, base_name: str, target_modules: tuple[str, ...]) -> dict[str, Any]:
    """adapter_config.json with the fields the engine serves."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(target_modules),
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_account(directory: Path, recipe: Recipe, account: RunRecord, digest: str) -> dict[str, Any]:
    facts = {**account.facts, "digest": digest}
    with disk(directory):
        write_json(directory / TRAINING_FILE, facts)
        write_json(directory / RUN_FILE, account.places)
        lines = (json.dumps(row, ensure_ascii=False) for row in account.rows)
        (directory / ROWS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (directory / CARD_FILE).write_text(model_card(facts), encoding="utf-8")
        save_loss_curve(directory / "loss.svg", recipe.name, account.metrics)
    return facts


def _verify(weights: Path, *, expected: set[str]) -> None:
    """Reopen the saved weights: all there, all finite, and no adapted module left as it was."""
    from safetensors.torch import load_file

    tensors: Mapping[str, torch.Tensor] = load_file(weights)
    if tensors.keys() != expected:
        raise RunError(f"{weights.name} holds {len(tensors)} tensors, {len(expected)} were trained; check the disk.")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"the loss diverged: {name} is not finite; lower training.learning_rate.")
        if ".lora_B." in name and not tensor.any():
            raise RunError(f"{name} is all zero: nothing was learnt there; raise training.learning_rate or the epochs.")


def baseline_of(material: "PreparedData") -> dict[str, Any] | None:
    """The last learnt answer of every training row, counted; what is learnt always ends with the stop token."""
    rows = {row.row_id: _preferred(row) for row in material.rows.train.rows}
    answers = []
    for rendered in material.train.rows:
        example = rows[rendered.row_id]
        chosen = rendered.chosen if material.recipe.method == "dpo" else rendered
        prompt_tokens, completion_tokens = _last_answer(chosen)
        text = example.messages[example.answer_index].content
        answers.append(ProfiledAnswer(text, prompt_tokens, completion_tokens, STOP))
    baseline = Baseline.of(answers)
    return None if baseline is None else baseline.model_dump(mode="json")


def _preferred(row: Example | Pair) -> Example:
    return row if isinstance(row, Example) else row.preferred


def _last_answer(row: "Rendered") -> tuple[int, int]:
    """How many tokens stand before the last answer, and how many it has with its stop token."""
    from trainer.training.loss_mask import IGNORED

    learnt = [index for index, label in enumerate(row.labels) if label != IGNORED]
    end = first = learnt[-1]
    while first > 0 and row.labels[first - 1] != IGNORED:
        first -= 1
    return first, end - first + 1
