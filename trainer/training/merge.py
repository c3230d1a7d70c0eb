"""Merge an adapter into its base as a model directory, and verify that it answers as base and adapter do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import BaseModel
from adapters.manifest import PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE, file_sha256
from adapters.peft_config import PeftConfig
from adapters.tensor_file import PREFIX
from trainer.errors import RunError
from trainer.files import disk
from trainer.training.artifacts import MODEL_WEIGHTS_FILE, copy_model_files, write_json
from trainer.training.targets import checkpoint_prefix

if TYPE_CHECKING:
    import torch

MERGE_FILE = "merge.json"
_TRIED_TOKENS = 256
_MOST_ROUNDING = 1.5  # a sound merge of SmolLM2 has 0.64 to 0.68 (docs/decisions/0017)


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences of log-probabilities, in nats per token: `mean` and `largest` between the merged model and base with
    adapter, both computed in fp32; `of_bf16` between base with adapter in bf16, as an engine computes it, and in fp32.
    """

    mean: float
    largest: float
    of_bf16: float


def merge(adapter: Path, config: PeftConfig, base_name: str, base: BaseModel, out: Path) -> Differences:
    """Write base and adapter as one model to `out`; raises `RunError` when its log-probabilities differ too much.

    The sum is taken in fp32 and rounded to the base's type once, which may change log-probabilities by as much as
    computing in bf16 does (docs/how-to/train.md).
    """
    with disk(out):
        copy_model_files(base.path, out)
    _write_weights(base.path, adapter, config, out / MODEL_WEIGHTS_FILE)
    differences = _compare(base, adapter, config, out)
    if differences.mean > _MOST_ROUNDING * differences.of_bf16:
        raise RunError(
            f"the merged model answers differently from base and adapter (log-probabilities differ by "
            f"{differences.mean:.4f} on average, where bf16 accounts for {differences.of_bf16:.4f}); serve the "
            "adapter unmerged."
        )
    with disk(out):
        write_json(out / MERGE_FILE, _facts(base_name, base, adapter, differences))
    return differences


def _write_weights(base: Path, adapter: Path, config: PeftConfig, target: Path) -> None:
    """Add B·A to every adapted weight in fp32, then round to the base's type."""
    import torch
    from safetensors.torch import load_file, save_file

    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(base.glob("*.safetensors")):
        weights |= load_file(shard)
    adapted = load_file(adapter / WEIGHTS_FILE)
    for name, a in adapted.items():
        if ".lora_A." not in name:
            continue
        key = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
        b = adapted[name.replace(".lora_A.", ".lora_B.")]
        change = config.scaling(key.removesuffix(".weight")) * (b.float() @ a.float())
        weights[key] = (weights[key].float() + change).to(weights[key].dtype)
    with disk(target):
        save_file(weights, target, metadata={"format": "pt"})
        target.chmod(0o644)


def _compare(base: BaseModel, adapter: Path, config: PeftConfig, merged: Path) -> Differences:
    """Compare both in fp32, so that only the rounding of the merged weights remains."""
    rows = _rows(base.path, adapter)
    apart = _with_adapter(_loaded(base.path), base, adapter, config)
    in_bf16 = _logprobs(apart, rows)
    exact = _logprobs(apart.float(), rows)
    del apart  # one model in fp32 at a time
    rounded = _logprobs(_loaded(merged).float(), rows)
    return Differences(
        mean=float((rounded - exact).abs().mean()),
        largest=float((rounded - exact).abs().max()),
        of_bf16=float((in_bf16 - exact).abs().mean()),
    )


def _loaded(directory: Path) -> Any:
    from transformers.utils.logging import disable_progress_bar

    from trainer.training.model import PRECISION, architecture

    disable_progress_bar()
    return architecture(directory).from_pretrained(directory, dtype=PRECISION, local_files_only=True).eval()


def _with_adapter(model: Any, base: BaseModel, adapter: Path, config: PeftConfig) -> Any:
    """Return the model with the adapter on it, whose tensors are named as in the checkpoint and not as in memory."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    inside, outside = checkpoint_prefix(model, base)
    stored = load_file(adapter / WEIGHTS_FILE)
    tensors = {
        PREFIX + inside + name.removeprefix(PREFIX).removeprefix(outside): tensor for name, tensor in stored.items()
    }
    of_modules = {
        named.removeprefix(PREFIX).removesuffix(".lora_A.weight"): name.removeprefix(PREFIX).rpartition(".lora_")[0]
        for named, name in zip(tensors, stored, strict=True)
        if named.endswith(".lora_A.weight")
    }
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=list(of_modules),
        r=config.r,
        use_rslora=config.use_rslora,
        rank_pattern={name: config.rank(module) for name, module in of_modules.items()},
        alpha_pattern={name: config.alpha(module) for name, module in of_modules.items()},
    )
    try:
        made = get_peft_model(model, lora, autocast_adapter_dtype=False)
        unbound = set_peft_model_state_dict(made, tensors).unexpected_keys
    except (RuntimeError, ValueError) as error:
        raise _unbound(adapter, " ".join(str(error).split())[:200]) from error
    if unbound:
        raise _unbound(adapter, f"{unbound[0]} is no tensor of it")
    return made.eval()


def _unbound(adapter: Path, reason: str) -> RunError:
    return RunError(f"PEFT cannot put {adapter} on its base ({reason}), so a merge is not checked; serve it unmerged.")


def _logprobs(model: Any, rows: Sequence[Sequence[int]]) -> "torch.Tensor":
    """Return the log-probability of every token of the rows but the first of each, in one vector."""
    import torch

    told = []
    with torch.no_grad():
        for ids in rows:
            logprobs = model(input_ids=torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
            told.append(logprobs.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1))
    return torch.cat(told)


def _rows(base: Path, adapter: Path) -> list[list[int]]:
    """Return the rows of the run's parity vectors; for adapters trained elsewhere, a fixed English text."""
    if (adapter / PARITY_FILE).is_file():
        document = json.loads((adapter / PARITY_FILE).read_bytes())
        return [row["input_ids"] for row in document["rows"][:8]]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    text = "The quick brown fox asks when the parcel arrives, and is told: on Friday. " * 4
    return [tokenizer(text)["input_ids"][:_TRIED_TOKENS]]


def _facts(base_name: str, base: BaseModel, adapter: Path, differences: Differences) -> Mapping[str, Any]:
    training = adapter / TRAINING_FILE
    return {
        "format": 1,
        "base_model": base_name,
        "base_config_sha256": base.config_sha256,
        "adapter_weights_sha256": file_sha256(adapter / WEIGHTS_FILE),
        "adapter_training": json.loads(training.read_bytes()) if training.is_file() else None,
        "mean_logprob_difference": differences.mean,
        "largest_logprob_difference": differences.largest,
        "mean_logprob_difference_of_bf16": differences.of_bf16,
    }
