"""Merging an adapter into its base: a model directory of its own, proven to answer as base and adapter do together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from adapters import AdapterError, BaseModel, preflight
from adapters.manifest import PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE, file_sha256
from adapters.peft_config import ENGINE_RANKS
from trainer.artifact import MODEL_WEIGHTS_FILE, copy_model_files, write_json
from trainer.base import find_base, prepare_libraries
from trainer.errors import RunError
from trainer.files import disk
from trainer.run_directory import staged

if TYPE_CHECKING:
    import torch

MERGE_FILE = "merge.json"
_LARGEST_MEAN = 0.02
_TRIED_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model; the differences are between log-probabilities of base and adapter, and of the merged model."""

    directory: Path
    mean_difference: float
    largest_difference: float


def merge(adapter: Path, base_model: str, out: Path, data_dir: Path, console: Console) -> Merged:
    """Write base and adapter as one model to `out`; raises `RunError` when it would not answer as the two do.

    The sum is taken in fp32 and rounded to bf16 once.
    """
    prepare_libraries()
    base = find_base(base_model, relative_to=Path(), data_dir=data_dir, console=console)
    try:
        described = BaseModel.read(base.directory)
        preflight(adapter, described, max_rank=ENGINE_RANKS[-1])
    except AdapterError as error:
        raise RunError(f"{adapter} does not fit {base.name}: {error}") from error
    with staged(out) as folder:
        with disk(folder):
            copy_model_files(base.directory, folder)
        _write_weights(base.directory, adapter, folder / MODEL_WEIGHTS_FILE)
        mean, largest = _compare(base.directory, adapter, folder)
        if mean > _LARGEST_MEAN:
            raise RunError(
                f"the merged model answers otherwise than base and adapter (log-probabilities differ by {mean:.4f} on "
                "average); serve the adapter unmerged."
            )
        with disk(folder):
            write_json(folder / MERGE_FILE, _facts(base.name, described, adapter, mean, largest))
    return Merged(out, mean, largest)


def _write_weights(base: Path, adapter: Path, target: Path) -> None:
    """Add B·A to every adapted weight in fp32, then round to the base's type."""
    import torch
    from safetensors.torch import load_file, save_file

    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(base.glob("*.safetensors")):
        weights |= load_file(shard)
    adapted, config = load_file(adapter / WEIGHTS_FILE), _config(adapter)
    for name, a in adapted.items():
        if ".lora_A." not in name:
            continue
        key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        b = adapted[name.replace(".lora_A.", ".lora_B.")]
        change = _scaling(config, a.shape[0]) * (b.float() @ a.float())
        weights[key] = (weights[key].float() + change).to(weights[key].dtype)
    with disk(target):
        save_file(weights, target, metadata={"format": "pt"})
        target.chmod(0o644)


def _scaling(config: Mapping[str, Any], rank: int) -> float:
    return float(config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank))


def _compare(base: Path, adapter: Path, merged: Path) -> tuple[float, float]:
    """The mean and the largest difference of log-probabilities, over held-out rows or over the tokens of a text."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = _rows(base, adapter)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "local_files_only": True}
    one = AutoModelForCausalLM.from_pretrained(merged, **options).eval()
    two = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, **options), adapter).eval()
    differences = [(_logprobs(one, row) - _logprobs(two, row)).abs() for row in rows]
    together = torch.cat(differences)
    return float(together.mean()), float(together.max())


def _logprobs(model: Any, ids: Sequence[int]) -> "torch.Tensor":
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    logprobs: torch.Tensor = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
    return logprobs


def _rows(base: Path, adapter: Path) -> list[list[int]]:
    """The rows of the run's parity vectors; for adapters trained elsewhere, the base's own chat template as text."""
    if (adapter / PARITY_FILE).is_file():
        document = json.loads((adapter / PARITY_FILE).read_bytes())
        return [row["input_ids"] for row in document["rows"][:8]]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    text = "The quick brown fox asks when the parcel arrives, and is told: on Friday. " * 4
    return [tokenizer(text)["input_ids"][:_TRIED_TOKENS]]


def _facts(base: str, described: BaseModel, adapter: Path, mean: float, largest: float) -> dict[str, Any]:
    training = adapter / TRAINING_FILE
    return {
        "format": 1,
        "base_model": base,
        "base_config_sha256": described.config_sha256,
        "adapter_weights_sha256": file_sha256(adapter / WEIGHTS_FILE),
        "adapter_training": json.loads(training.read_bytes()) if training.is_file() else None,
        "mean_logprob_difference": mean,
        "largest_logprob_difference": largest,
    }


def _config(adapter: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    if document.get("rank_pattern") or document.get("alpha_pattern"):
        raise RunError("the adapter has rank_pattern or alpha_pattern, which merging does not know; serve it unmerged.")
    return document
