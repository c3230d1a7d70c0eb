"""Estimate the memory of a run before it starts, and refuse one that does not fit with the setting to lower.

    weights       2 bytes a parameter in bf16, 4 in fp32; NF4 with double quantization 0.516 for linear layers
    trainable     22 bytes a parameter: bf16 weight and gradient, fp32 master weight and gradient, AdamW's two moments,
                  copy of the best epoch; 28 where weight, gradient and copy are in fp32
    activations   for the backward pass of the tokens of one micro-batch
    loss          the logits of one chunk, three times in fp32

After QLoRA the NF4 base is freed and the bf16 base is loaded in its place, to evaluate the adapter on it.

With `shards`, each rank holds that fraction of the base's layers and of the trainable parameters in them, beside the
scales of NF4 and two layers that are gathered while they are computed. docs/explanation/training-run.md has the
formula with an example. The libraries themselves are not included.
"""

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters import BaseModel
from trainer.errors import OutOfMemoryError
from trainer.training.loss import CHUNK_TOKENS
from trainer.training.recipe import ATTENTION_MODULES, Recipe

_BF16, _FP32, _NF4, _NF4_SCALES = 2.0, 4.0, 0.5, 0.016
_TRAINABLE, _TRAINABLE_FP32 = 22.0, 28.0
_UNQUANTIZED = ("embed_tokens", "lm_head")
_GIB = 2**30
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a run needs, by purpose."""

    weights: int
    trainable: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.trainable + self.activations + self.loss

    def __str__(self) -> str:
        parts = ((name, getattr(self, name)) for name in ("weights", "trainable", "activations", "loss"))
        named = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in parts)
        return f"{self.total / _GIB:.2f} GiB ({named})"


def estimate(base: BaseModel, recipe: Recipe, tokens: int, shards: int = 1) -> Memory:
    """Estimate the memory of one rank for a micro-batch of `tokens` tokens."""
    config = _text_config(base)
    linear, inside, outside = _parameters(base)
    size_of, per_trainable = (_FP32, _TRAINABLE_FP32) if recipe.learns_preferences else (_BF16, _TRAINABLE)
    per_parameter, scales = (_NF4, _NF4_SCALES) if recipe.method == "qlora" else (size_of, 0.0)
    adapted = _adapted(linear, recipe)
    trainable = sum(recipe.lora.max_rank * (out + size) for out, size in adapted.values())
    if recipe.method == "full":
        trainable = inside // shards + outside
    held = _held(inside, config, shards)
    return Memory(
        weights=int(held * per_parameter + inside * scales + outside * size_of),
        trainable=int(trainable * per_trainable),
        activations=tokens * _activation_bytes(config, adapted, recipe),
        loss=3 * 4 * CHUNK_TOKENS * int(config.vocab_size),
    )


def evaluation_bytes(base: BaseModel, recipe: Recipe, longest: int, shards: int = 1) -> int:
    """Estimate the memory of one rank for the evaluation on the bf16 base after QLoRA, with NF4 freed."""
    config = _text_config(base)
    linear, inside, outside = _parameters(base)
    held = _held(inside, config, shards) + outside + sum(recipe.lora.max_rank * sum(shape) for shape in linear.values())
    activations = tokens_at_once(recipe, longest) * _layer_bytes(config)
    return int(held * _BF16) + activations + 3 * 4 * CHUNK_TOKENS * int(config.vocab_size)


def too_large_for_evaluation(needed: int, free: int) -> str:
    """Return the sentence for a bf16 base that memory is too small for."""
    return f"the bf16 base needs {needed / _GIB:.2f} GiB after training, and {free / _GIB:.2f} GiB are free."


def refuse_oversized(base: BaseModel, recipe: Recipe, longest: int, free: int, shards: int = 1) -> None:
    """Raise `OutOfMemoryError` with the setting to lower, and its value, when a run needs more than `free` bytes."""
    needed = estimate(base, recipe, tokens_at_once(recipe, longest), shards)
    if needed.total <= free:
        return
    raise OutOfMemoryError(
        f"the run needs {needed}, and {free / _GIB:.2f} GiB are free; {_fix(base, recipe, longest, free, shards)}."
    )


def fitting_tokens(base: BaseModel, recipe: Recipe, longest: int, free: int, shards: int = 1) -> int:
    """Return the largest micro-batch, up to the recipe's, that fits into `free` bytes; at least the longest row."""
    fixed, per_token = estimate(base, recipe, 0, shards).total, estimate(base, recipe, 1).activations
    return max(longest, min(recipe.training.max_tokens_per_batch, (free - fixed) // per_token))


def tokens_at_once(recipe: Recipe, longest: int) -> int:
    """Return the most tokens of a micro-batch of the recipe, the longest row having `longest` tokens."""
    training = recipe.training
    return max(longest, min(training.max_tokens_per_batch, training.per_device_train_batch_size * longest))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or the operating system says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or any(said in str(error) for said in _NO_MEMORY)


def free_bytes() -> int:
    """Return the free memory of the first GPU, or of the machine within its control group, in bytes."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    return min(available, _left_in_group())


def _left_in_group() -> int:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == "max" else int(limit) - used


def _fix(base: BaseModel, recipe: Recipe, longest: int, free: int, shards: int) -> str:
    fits = fitting_tokens(base, recipe, longest, free, shards)
    if estimate(base, recipe, fits, shards).total <= free:
        return f"set training.max_tokens_per_batch = {fits}, or pass --auto-batch"
    if not recipe.training.gradient_checkpointing:
        return "set training.gradient_checkpointing = true"
    if recipe.method == "full":
        return 'set method = "lora"'
    if recipe.method == "lora":
        return 'set method = "qlora"'
    if shards > 1:
        return "launch more processes, each with a GPU of its own"
    return "shard the base over several GPUs with `accelerate launch --use_fsdp`, or use a smaller one"


def _parameters(base: BaseModel) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Return the shapes of the linear layers, their parameters, and those of embedding and output layer."""
    linear = {name: shape for name, shape in base.modules.items() if not name.endswith(_UNQUANTIZED)}
    outside = sum(out * size for name, (out, size) in base.modules.items() if name not in linear)
    return linear, sum(out * size for out, size in linear.values()), outside


def _held(inside: int, config: Any, shards: int) -> float:
    """Return the parameters of linear layers that a rank holds."""
    return inside if shards == 1 else inside / shards + 2 * inside / int(config.num_hidden_layers)


def _adapted(linear: Mapping[str, tuple[int, int]], recipe: Recipe) -> dict[str, tuple[int, int]]:
    if recipe.method == "full":
        return {}
    wanted = recipe.lora.target_modules
    if recipe.lora.is_regex:
        return {name: shape for name, shape in linear.items() if re.fullmatch(str(wanted), name)}
    names = ATTENTION_MODULES if wanted == "attention-only" else wanted
    return {n: shape for n, shape in linear.items() if names == "all-linear" or n.rpartition(".")[2] in names}


def _text_config(base: BaseModel) -> Any:
    """Return the configuration of the language model, which is nested in that of a model with other inputs."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base.path, local_files_only=True).get_text_config()


def _intermediate_size(config: Any, hidden: int) -> int:
    """Return the width of the feed-forward layers that a token goes through, of all its experts together."""
    size = getattr(config, "intermediate_size", None) or getattr(config, "ffn_hidden_size", None) or 4 * hidden
    dense = max(size) if isinstance(size, list | tuple) else size
    experts = getattr(config, "moe_intermediate_size", None) or (size if isinstance(size, int) else 0)
    active = getattr(config, "num_experts_per_tok", None) or 0
    return int(max(dense, experts * active if isinstance(experts, int) else 0))


def _layer_bytes(config: Any) -> int:
    """Return the bytes per token of one layer's activations."""
    hidden = int(config.hidden_size)
    heads = int(getattr(config, "num_attention_heads", None) or config.num_heads)
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    attention = head * (heads + int(getattr(config, "num_key_value_heads", None) or heads))
    attended = 4 if torch.cuda.is_available() else 8  # a CPU computes attention in fp32
    return 16 * hidden + attended * attention + 8 * _intermediate_size(config, hidden)


def _activation_bytes(config: Any, adapted: Mapping[str, tuple[int, int]], recipe: Recipe) -> int:
    """Return the bytes per token that are kept for the backward pass."""
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    dropped = 2.5 if recipe.lora.lora_dropout else 0
    lora = int(sum(dropped * size + 2 * recipe.lora.max_rank for _, size in adapted.values())) // layers
    per_layer = _layer_bytes(config) + lora
    kept = 2 * hidden * layers + per_layer if recipe.training.gradient_checkpointing else per_layer * layers
    return 2 * kept if recipe.learns_preferences else kept
