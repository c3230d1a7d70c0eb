"""Load the base model for a method and make it trainable.

lora and dpo train bf16 adapters over the bf16 base, qlora over the base in NF4 with double quantization; full trains
every weight. A `LoraConfig` has only options that the engine can serve.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.errors import RunError
from trainer.training.attention import PACKED, register_packed_attention
from trainer.training.batching import PackedBatch
from trainer.training.distributed import shard_layers
from trainer.training.recipe import Lora, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The engine serves base and adapter in it.
PRECISION = torch.bfloat16
# The chunked loss multiplies by the output layer and does nothing else.
_SPECIAL_HEADS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class TrainableModel:
    """A model with trainable parameters; `module` is the PEFT model, or the base itself for full fine-tuning."""

    module: Any
    base: "PreTrainedModel"
    device: torch.device

    @property
    def head(self) -> torch.Tensor:
        """The output layer's weight, (vocabulary, size)."""
        weight: torch.Tensor = self.base.get_output_embeddings().weight
        return weight

    @property
    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The names of the adapted modules; none for full fine-tuning."""
        config = getattr(self.module, "peft_config", None)
        return tuple(sorted(config["default"].target_modules)) if config else ()

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """Return the last hidden states at the positions that predict loss tokens."""
        decoder = self.base.get_decoder()
        states = decoder(
            input_ids=batch.ids, position_ids=batch.positions, row_tokens=batch.row_tokens, use_cache=False
        ).last_hidden_state
        hidden: torch.Tensor = states[0, batch.loss_positions]
        return hidden

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Disable the adapter within the block."""
        with self.module.disable_adapter():
            yield


def local_device(local_rank: int) -> torch.device:
    """Return the GPU of this rank, or the CPU where there is none."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def load_base(directory: Path, device: torch.device, *, nf4: bool = False, shards: int = 1) -> "PreTrainedModel":
    """Load the base in bf16, or in NF4 with bf16 arithmetic; raises `RunError` when it cannot be trained.

    With more than one shard it stays on the CPU until it is sharded.
    """
    device = device if shards == 1 else torch.device("cpu")
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    register_packed_attention()
    options: dict[str, Any] = {"device_map": {"": device}, "quantization_config": _nf4()} if nf4 else {}
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=PRECISION, local_files_only=True, attn_implementation=PACKED, **options
    )
    _refuse_special_heads(directory, model)
    model.requires_grad_(False)
    return model if nf4 else model.to(device)


def add_adapter(
    base: "PreTrainedModel", lora: Lora, device: torch.device, *, seed: int, shards: int = 1
) -> TrainableModel:
    """Put a fresh bf16 adapter on the frozen base; the same seed gives the same initial weights.

    With more than one shard, each rank keeps its shard of every layer, and the whole adapter.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    frozen = set(base.parameters())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=_targets(base, lora),
        use_rslora=lora.use_rslora,
        bias="none",
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(PRECISION)
    return _sharded(TrainableModel(model, base, device), shards, unsharded=set(model.parameters()) - frozen)


def remove_adapter(model: TrainableModel) -> "PreTrainedModel":
    """Return the base as it was before `add_adapter`, so that it can get another adapter."""
    base: PreTrainedModel = model.module.unload()
    base.requires_grad_(False)
    return base


def unfreeze(base: "PreTrainedModel", device: torch.device, *, shards: int = 1) -> TrainableModel:
    """Make every weight of the base trainable."""
    base.requires_grad_(True)
    return _sharded(TrainableModel(base, base, device), shards, unsharded=set())


def make_trainable(base: "PreTrainedModel", recipe: Recipe, device: torch.device, *, shards: int = 1) -> TrainableModel:
    """Make the base trainable by the recipe's method."""
    if recipe.training.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.method == "full":
        return unfreeze(base, device, shards=shards)
    return add_adapter(base, recipe.lora, device, seed=recipe.seed, shards=shards)


def _sharded(model: TrainableModel, shards: int, *, unsharded: set[torch.nn.Parameter]) -> TrainableModel:
    if shards > 1:
        shard_layers(model.base, model.device, shards, unsharded)
    return model


def _targets(base: "PreTrainedModel", lora: Lora) -> str | list[str]:
    wanted = lora.module_names
    if isinstance(wanted, str):
        return wanted
    present = {name.rpartition(".")[2] for name, module in base.named_modules() if hasattr(module, "in_features")}
    if missing := [name for name in wanted if name not in present]:
        raise RunError(
            f"lora.target_modules: the base has no linear layer {missing[0]}; it has {', '.join(sorted(present))}."
        )
    return list(wanted)


def _nf4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=PRECISION,
    )


def _refuse_special_heads(directory: Path, model: "PreTrainedModel") -> None:
    config = json.loads((directory / "config.json").read_bytes())
    special = next((name for name in _SPECIAL_HEADS if config.get(name) not in (None, 1, 1.0)), None)
    head = model.get_output_embeddings()
    if special or head is None or getattr(head, "bias", None) is not None:
        raise RunError(
            f"{directory.name} has an output layer with more than one matrix ({special or 'bias'}), which the "
            "trainer's loss does not support; choose another base model."
        )
