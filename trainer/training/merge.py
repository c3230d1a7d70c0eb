"""Merge an adapter into its base as a model directory, and verify that it answers as base and adapter do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from adapters import AdapterError, BaseModel, preflight
from adapters.manifest import CONFIG_FILE, PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE, file_sha256
from adapters.peft_config import ENGINE_RANKS, read_peft_config
from trainer.errors import RunError
from trainer.files import disk
from trainer.training.artifacts import MODEL_WEIGHTS_FILE, RUN_FILE, copy_model_files, write_json
from trainer.training.base import Base, find_base, prepare_libraries
from trainer.training.run_directory import staged

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


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model and how it differs from base and adapter."""

    directory: Path
    differences: Differences


def merge(adapter: Path, base_model: str | None, out: Path, data_dir: Path, console: Console) -> Merged:
    """Write base and adapter as one model to `out`; raises `RunError` when its log-probabilities differ too much.

    Without `base_model`, the base is the one that the adapter was trained on. The sum is taken in fp32 and rounded to
    bf16 once, which may change log-probabilities by as much as computing in bf16 does (docs/how-to/train.md).
    """
    prepare_libraries()
    base = _base(adapter, base_model, data_dir, console)
    try:
        described = BaseModel.read(base.directory)
        preflight(adapter, described, max_rank=ENGINE_RANKS[-1])
    except AdapterError as error:
        raise RunError(f"{adapter} does not fit {base.name}: {error}") from error
    with staged(out) as folder:
        with disk(folder):
            copy_model_files(base.directory, folder)
        _write_weights(base.directory, adapter, folder / MODEL_WEIGHTS_FILE)
        differences = _compare(base.directory, adapter, folder)
        if differences.mean > _MOST_ROUNDING * differences.of_bf16:
            raise RunError(
                f"the merged model answers differently from base and adapter (log-probabilities differ by "
                f"{differences.mean:.4f} on average, where bf16 accounts for {differences.of_bf16:.4f}); serve the "
                "adapter unmerged."
            )
        with disk(folder):
            write_json(folder / MERGE_FILE, _facts(base.name, described, adapter, differences))
    return Merged(out, differences)


def _base(adapter: Path, given: str | None, data_dir: Path, console: Console) -> Base:
    """Return the given base, else the one of the run, else the one that adapter_config.json names."""
    if given is not None:
        return find_base(given, relative_to=Path(), data_dir=data_dir, console=console)
    folder = _read(adapter / RUN_FILE).get("base_folder")
    named = _read(adapter / CONFIG_FILE).get("base_model_name_or_path")
    if folder is not None and (Path(folder) / "config.json").is_file():
        return Base(named or Path(folder).name, Path(folder))
    if not named:
        raise RunError(f"{adapter} does not name its base model; give it with --base-model.")
    try:
        return find_base(named, relative_to=Path(), data_dir=data_dir, console=console)
    except RunError as error:
        raise RunError(
            f"{adapter} was trained on {named}, which is not on this machine; give its folder with --base-model."
        ) from error


def _write_weights(base: Path, adapter: Path, target: Path) -> None:
    """Add B·A to every adapted weight in fp32, then round to the base's type."""
    import torch
    from safetensors.torch import load_file, save_file

    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(base.glob("*.safetensors")):
        weights |= load_file(shard)
    adapted, config = load_file(adapter / WEIGHTS_FILE), read_peft_config(adapter)
    for name, a in adapted.items():
        if ".lora_A." not in name:
            continue
        key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        b = adapted[name.replace(".lora_A.", ".lora_B.")]
        change = config.scaling(key.removesuffix(".weight")) * (b.float() @ a.float())
        weights[key] = (weights[key].float() + change).to(weights[key].dtype)
    with disk(target):
        save_file(weights, target, metadata={"format": "pt"})
        target.chmod(0o644)


def _compare(base: Path, adapter: Path, merged: Path) -> "Differences":
    """Compare both in fp32, so that only the rounding of the merged weights remains."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    rows = _rows(base, adapter)
    options: dict[str, Any] = {"dtype": torch.bfloat16, "local_files_only": True}
    plain = AutoModelForCausalLM.from_pretrained(base, **options)
    apart = PeftModel.from_pretrained(plain, adapter, autocast_adapter_dtype=False).eval()
    in_bf16 = _logprobs(apart, rows)
    exact = _logprobs(apart.float(), rows)
    del plain, apart  # one model in fp32 at a time
    rounded = _logprobs(AutoModelForCausalLM.from_pretrained(merged, **options).eval().float(), rows)
    return Differences(
        mean=float((rounded - exact).abs().mean()),
        largest=float((rounded - exact).abs().max()),
        of_bf16=float((in_bf16 - exact).abs().mean()),
    )


def _logprobs(model: Any, rows: Sequence[Sequence[int]]) -> "torch.Tensor":
    """Return the log-probability of every token of the rows but the first of each, in one vector."""
    import torch

    told = []
    with torch.no_grad():
        for ids in rows:
            logprobs = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
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


def _facts(base: str, described: BaseModel, adapter: Path, differences: Differences) -> dict[str, Any]:
    training = adapter / TRAINING_FILE
    return {
        "format": 1,
        "base_model": base,
        "base_config_sha256": described.config_sha256,
        "adapter_weights_sha256": file_sha256(adapter / WEIGHTS_FILE),
        "adapter_training": json.loads(training.read_bytes()) if training.is_file() else None,
        "mean_logprob_difference": differences.mean,
        "largest_logprob_difference": differences.largest,
        "mean_logprob_difference_of_bf16": differences.of_bf16,
    }


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return document
