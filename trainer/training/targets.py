"""Choose the modules that get LoRA matrices, and refuse before training what the engine would not take.

`all-linear` means every linear layer of the text decoder that PEFT can adapt and vLLM can serve. Left out: the output
layer, vision and audio towers, routers and fused experts of mixture-of-experts layers (PEFT adapts them as one
parameter, which vLLM ignores), and Mamba's `out_proj`, whose kernels bypass the module.
"""

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from adapters import BaseModel
from adapters.peft_config import PeftConfig
from trainer.errors import RunError
from trainer.training.output_layer import decoder_of
from trainer.training.recipe import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Architectures that vLLM 0.32 serves, but without LoRA; tests/trainer/families compares them with the installed engine.
WITHOUT_LORA = frozenset(
    (
        "BloomForCausalLM",
        "Cohere2MoeForCausalLM",
        "DbrxForCausalLM",
        "DeepseekV4ForCausalLM",
        "FalconForCausalLM",
        "FalconMambaForCausalLM",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "Gemma3nForCausalLM",
        "Gemma3nForConditionalGeneration",
        "KimiLinearForCausalLM",
        "Mamba2ForCausalLM",
        "MambaForCausalLM",
        "MiMoV2FlashForCausalLM",
        "OrionForCausalLM",
        "StableLmForCausalLM",
        "Zamba2ForCausalLM",
    )
)
_PEFT = "base_model.model."
# PEFT refuses these modules in these families.
_MAMBA_FAMILIES = frozenset(("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"))
_MAMBA_MODULES = frozenset(("out_proj", "conv1d"))
# With fused experts, PEFT reads these names as the experts' or the router's, wherever the module is.
_EXPERT_NAMES = frozenset(("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))
_ROUTERS = ("gate", "router", "router_proj", "shared_expert_gate", "wg")


def lora_targets(base: "PreTrainedModel", lora: Lora) -> list[str]:
    """Return the names of the modules to adapt, short where they are unambiguous; raises `RunError`."""
    usable = _usable(base)
    wanted = lora.module_names
    if lora.is_regex:
        chosen = [name for name in usable if re.fullmatch(str(wanted), name)]
        if not chosen:
            raise RunError(f"lora.target_modules: {wanted} matches no linear layer of the base, such as {usable[0]}.")
    else:
        chosen = usable if wanted == "all-linear" else _named(usable, _linear(base), wanted)
    if not chosen:
        raise RunError(
            f"{base.config.model_type} has no linear layer that PEFT can adapt and the engine can serve; "
            'set method = "full", or choose another base_model.'
        )
    _refuse_unmatched(chosen, lora)
    short = {name.rpartition(".")[2] for name in chosen}
    elsewhere = {name for name, _ in base.named_modules() if name.rpartition(".")[2] in short} - set(chosen)
    return sorted(set(chosen) if elsewhere else short)


def refuse_unserved(architectures: Collection[str], base: str) -> None:
    """Raise `RunError` where the engine serves an architecture without LoRA."""
    if unserved := WITHOUT_LORA.intersection(architectures):
        raise RunError(
            f"vLLM serves {min(unserved)} without LoRA, so an adapter of {base} could not be served; set "
            'method = "full", or choose another base_model.'
        )


def refuse_unbound(tensors: Mapping[str, Any], base: BaseModel) -> None:
    """Raise `RunError` when a LoRA matrix fits no module of the base's files, as the adapter would not be served."""
    for name, tensor in tensors.items():
        module, _, side = name.removeprefix(_PEFT).rpartition(".lora_")
        shape = base.modules.get(module)
        axis = 0 if side.startswith("B") else 1
        if shape is None or shape[axis] != tensor.shape[axis]:
            found = "has no such module" if shape is None else f"has {list(shape)} there"
            raise RunError(
                f"an adapter of {module} could not be served: {base.path.name} {found}; leave it out of "
                "lora.target_modules, or choose another base_model."
            )


def checkpoint_prefix(base: "PreTrainedModel", described: BaseModel) -> tuple[str, str]:
    """Return the decoder's prefix in memory and in the checkpoint, by which the engine knows the modules.

    They differ for Gemma 3 and Mistral 3, say: `model.language_model.` is `language_model.model.` in their files.
    """
    embeddings = base.get_input_embeddings()
    name = next(name for name, module in base.named_modules() if module is embeddings)
    leaf, shape = name.rpartition(".")[2], tuple(embeddings.weight.shape)
    found = [key for key, size in described.modules.items() if key.rpartition(".")[2] == leaf and size == shape]
    if name in found or len(found) != 1:
        return "", ""
    return name.removesuffix(leaf), found[0].removesuffix(leaf)


def renamed(name: str, prefix: tuple[str, str]) -> str:
    """Return a module's or a LoRA matrix's name as the checkpoint has it."""
    inside, outside = prefix
    start = _PEFT if name.startswith(_PEFT) else ""
    rest = name.removeprefix(start)
    return start + outside + rest.removeprefix(inside) if inside and rest.startswith(inside) else name


def _refuse_unmatched(modules: Collection[str], lora: Lora) -> None:
    """Raise `RunError` for a key of rank_pattern or alpha_pattern that matches no adapted module."""
    for field in ("rank_pattern", "alpha_pattern"):
        for key in getattr(lora, field):
            if not any(PeftConfig.is_matched(key, module) for module in modules):
                raise RunError(f"lora.{field}: {key} matches no adapted module, such as {min(modules)}; correct it.")


def _usable(base: "PreTrainedModel") -> list[str]:
    kind = base.config.get_text_config().model_type
    dropped = set(_ROUTERS)
    if _has_fused_experts_in_peft(base):
        dropped |= _EXPERT_NAMES
    if {kind, base.config.model_type} & _MAMBA_FAMILIES:
        dropped |= _MAMBA_MODULES
    return [name for name in _linear(base) if name.rpartition(".")[2] not in dropped]


def _has_fused_experts_in_peft(base: "PreTrainedModel") -> bool:
    """Whether PEFT renames the targets of this family to its fused experts (from transformers 5 on)."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=["gate"])
    convert_peft_config_for_transformers(config, base, None)
    return bool(config.target_parameters)


def _linear(base: "PreTrainedModel") -> list[str]:
    """Return the linear layers of the decoder but for the output layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    inside = set(decoder_of(base).modules())
    head = base.get_output_embeddings()
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module in inside and module is not head
    ]


def _named(usable: list[str], every: list[str], wanted: str | tuple[str, ...]) -> list[str]:
    present = {name.rpartition(".")[2] for name in usable}
    if missing := [name for name in wanted if name not in present]:
        known = {name.rpartition(".")[2] for name in every}
        why = "cannot be adapted in this family" if missing[0] in known else "is no linear layer of the base"
        raise RunError(f"lora.target_modules: {missing[0]} {why}; it has {', '.join(sorted(present))}.")
    return [name for name in usable if name.rpartition(".")[2] in wanted]
