"""Loading the base for a method and putting what is learnt on it.

lora and dpo train bf16 adapters over the bf16 base, qlora the same over the base in NF4 with double quantisation; full
trains every weight. Only what the engine can serve is ever put into a `LoraConfig`.
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

# What the base computes in and the adapter is trained in: the precision in which the engine serves both.
PRECISION = torch.bfloat16
# An output layer that does more than multiply would be skipped by the chunked loss.
_SPECIAL_HEADS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class TrainableModel:
    """A model with something to learn on it; `model` is the PEFT model, or the base itself for full fine-tuning."""

    model: Any
    base: "PreTrainedModel"
    device: torch.device

    @property
    def head(self) -> torch.Tensor:
        """The output layer's weight, (vocabulary, size)."""
        weight: torch.Tensor = self.base.get_output_embeddings().weight
        return weight

    @property
    def learnt_parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The names of the modules that the adapter sits on; none for full fine-tuning."""
        config = getattr(self.model, "peft_config", None)
        return tuple(sorted(config["default"].target_modules)) if config else ()

    def hidden(self, pack: PackedBatch) -> torch.Tensor:
        """The last hidden states at the positions whose next token is learnt."""
        decoder = self.base.get_decoder()
        states = decoder(
            input_ids=pack.ids, position_ids=pack.positions, row_tokens=pack.row_tokens, use_cache=False
        ).last_hidden_state
        hidden: torch.Tensor = states[0, pack.learnt]
        return hidden

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Within the block the model is the base alone."""
        with self.model.disable_adapter():
            yield


def device_of_this_process(local_rank: int) -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def load_base(directory: Path, device: torch.device, *, nf4: bool = False, parts: int = 1) -> "PreTrainedModel":
    """The base model in bf16, or in NF4 with bf16 arithmetic; raises `RunError` when it cannot be trained on here.

    One that is to be split into parts stays on the CPU until it is.
    """
    device = device if parts == 1 else torch.device("cpu")
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
    base: "PreTrainedModel", lora: Lora, device: torch.device, *, seed: int, parts: int = 1
) -> TrainableModel:
    """A fresh adapter on the frozen base, in bf16; the same seed gives the same first weights.

    With more than one part, each of so many processes keeps its own of every layer, and the whole adapter.
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
    return _split(TrainableModel(model, base, device), parts, whole=set(model.parameters()) - frozen)


def remove_adapter(learner: TrainableModel) -> "PreTrainedModel":
    """The base as it was before `add_adapter`, to be adapted again."""
    base: PreTrainedModel = learner.model.unload()
    base.requires_grad_(False)
    return base


def unfreeze(base: "PreTrainedModel", device: torch.device, *, parts: int = 1) -> TrainableModel:
    """The base itself as what is learnt."""
    base.requires_grad_(True)
    return _split(TrainableModel(base, base, device), parts, whole=set())


def set_up(base: "PreTrainedModel", recipe: Recipe, device: torch.device, *, parts: int = 1) -> TrainableModel:
    """The base with what the recipe's method learns on it, in training mode."""
    if recipe.training.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.method == "full":
        return unfreeze(base, device, parts=parts)
    return add_adapter(base, recipe.lora, device, seed=recipe.seed, parts=parts)


def _split(learner: TrainableModel, parts: int, *, whole: set[torch.nn.Parameter]) -> TrainableModel:
    if parts > 1:
        shard_layers(learner.base, learner.device, parts, whole)
    return learner


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
            f"{directory.name} has an output layer that is more than one matrix ({special or 'bias'}), which the "
            "trainer's loss does not compute; choose another base model."
        )
