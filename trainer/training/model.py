"""Load the base model for a method and make it trainable.

lora trains bf16 adapters over the bf16 base, qlora over the base in NF4 with double quantization; full trains every
weight. Preference methods compute in fp32: they learn from differences of a few hundredths of a nat between summed
log-probabilities, which bf16 rounds by tenths. A `LoraConfig` has only options that the engine can serve.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from trainer.training.attention import PACKED, register_packed_attention
from trainer.training.batching import PackedBatch
from trainer.training.distributed import shard_layers
from trainer.training.output_layer import Head, decoder_of, output_layer
from trainer.training.recipe import Lora, Recipe
from trainer.training.targets import lora_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The engine serves base and adapter in it.
PRECISION = torch.bfloat16
EAGER = "eager"  # transformers' own attention, which every family has
Layout = Literal["packed", "alone"]


@dataclass(frozen=True)
class TrainableModel:
    """A model with trainable parameters; `module` is the PEFT model, or the base itself for full fine-tuning.

    `layout` says whether the rows of a batch go through the decoder packed, or each one alone (self_check.py).
    `widened` are the weights of the base that are computed with in fp32 and were read in bf16.
    """

    module: Any
    base: "PreTrainedModel"
    device: torch.device
    layout: Layout = "packed"
    widened: tuple[torch.nn.Parameter, ...] = ()

    @property
    def head(self) -> Head:
        """The output layer's weight, (vocabulary, size), or the base's own logits function."""
        weight: torch.Tensor = self.base.get_output_embeddings().weight
        return self._own_logits or weight

    @cached_property
    def _own_logits(self) -> Any:
        return output_layer(self.base)

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
        if self.layout == "packed":
            states = self._decode(batch.ids, batch.positions, batch.row_tokens)
        else:
            rows = torch.split(batch.ids, list(batch.row_tokens), dim=1)
            places = torch.split(batch.positions, list(batch.row_tokens), dim=1)
            parts = zip(rows, places, batch.row_tokens, strict=True)
            states = torch.cat([self._decode(row, at, (tokens,)) for row, at, tokens in parts])
        return states[batch.loss_positions]

    def _decode(self, ids: torch.Tensor, positions: torch.Tensor, row_tokens: tuple[int, ...]) -> torch.Tensor:
        """Return the decoder's last hidden states, (tokens, size); transformers' own attention numbers the tokens."""
        decoder = decoder_of(self.base)
        packed = decoder.config._attn_implementation == PACKED
        options: dict[str, Any] = {"position_ids": positions, "row_tokens": row_tokens} if packed else {}
        states: torch.Tensor = decoder(input_ids=ids, use_cache=False, **options).last_hidden_state[0]
        return states

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
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    register_packed_attention()
    options: dict[str, Any] = {"device_map": {"": device}, "quantization_config": _nf4()} if nf4 else {}
    options |= {"dtype": PRECISION, "local_files_only": True}
    model = architecture(directory).from_pretrained(directory, attn_implementation=EAGER, **options)
    model.set_attn_implementation(PACKED)  # without effect on families that have attention code of their own
    _switch_off_dropout(model)
    model.requires_grad_(False)
    return model if nf4 else model.to(device)


def add_adapter(
    base: "PreTrainedModel",
    lora: Lora,
    device: torch.device,
    *,
    seed: int,
    shards: int = 1,
    precision: torch.dtype | None = None,
) -> TrainableModel:
    """Put a fresh adapter, in bf16 by default, on the frozen base; the same seed gives the same initial weights.

    With more than one shard, each rank keeps its shard of every layer, and the whole adapter.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    frozen = set(base.parameters())
    targets = lora_targets(base, lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        fan_in_fan_out=_are_transposed(base, targets),
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        bias="none",
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(precision or PRECISION)
    return _sharded(TrainableModel(model, base, device), shards, unsharded=set(model.parameters()) - frozen)


def _are_transposed(base: "PreTrainedModel", targets: Collection[str]) -> bool:
    """Whether target layers keep their weights as (in, out), as GPT-2's `Conv1D` does."""
    return any(
        type(module).__name__ == "Conv1D" and {name, name.rpartition(".")[2]}.intersection(targets)
        for name, module in base.named_modules()
    )


def adapter_tensors(model: TrainableModel) -> dict[str, torch.Tensor]:
    """Return the LoRA matrices under PEFT's names."""
    from peft import get_peft_model_state_dict

    tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model.module)
    return tensors


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
    if not recipe.learns_preferences:
        return add_adapter(base, recipe.lora, device, seed=recipe.seed, shards=shards)
    widened = tuple(parameter for parameter in base.parameters() if parameter.dtype == torch.bfloat16)
    _cast(widened, torch.float32)
    model = add_adapter(base, recipe.lora, device, seed=recipe.seed, shards=shards, precision=torch.float32)
    return replace(model, widened=widened)


def in_bf16(model: TrainableModel) -> TrainableModel:
    """Round what is computed with in fp32 to bf16, in which the engine serves it; not for a sharded base."""
    if model.widened:
        _cast((*model.widened, *model.trainable_parameters.values()), PRECISION)
    return replace(model, widened=())


def _cast(parameters: Iterable[torch.nn.Parameter], precision: torch.dtype) -> None:
    """Change the precision of parameters, and of no buffer: rotary frequencies stay in fp32."""
    for parameter in parameters:
        parameter.data = parameter.data.to(precision)


def _sharded(model: TrainableModel, shards: int, *, unsharded: set[torch.nn.Parameter]) -> TrainableModel:
    if shards > 1:
        shard_layers(model.base, model.device, shards, unsharded)
    return model


def architecture(directory: Path) -> Any:
    """Return the class that wrote the checkpoint, so that its modules have the names that the engine knows."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    names = config.architectures or ()
    return next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None) or (
        transformers.AutoModelForCausalLM
    )


def _nf4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=PRECISION,
    )


def _switch_off_dropout(model: torch.nn.Module) -> None:
    """Set the base's own dropout to zero: `lora_dropout` alone is drawn, and an eval loss draws nothing."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(module, name, 0.0)
