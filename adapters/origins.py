"""Recognise the tool that saved an adapter not in PEFT's layout: by names of files, tensors and fields, or first bytes.

Each result ends a sentence about the thing: its kind, the tool that wrote it, and the fix. `--convert` is named where
it can convert to PEFT's layout.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

CONVERT = "publish it with --convert"
_SAVE = "save it with PEFT's model.save_pretrained"
_MISTRAL = "is mistral-finetune's, whose matrices are laid out for Mistral's own code; train with PEFT"
_TORCHTUNE = "is torchtune's; save with its FullModelHFCheckpointer, which writes PEFT's adapter_model.safetensors"
_IMAGE = "is a LoRA of an image model (kohya, diffusers), which no language model serves; publish a language model's"
_PICKLE = f"is a pickle under another name, which could run code; load it with PEFT and {_SAVE}"
_HEADS = (
    (b"version https://git-lfs.github.com/", "is a Git LFS pointer, not the file itself; run git lfs pull first"),
    (b"GGUF", "is llama.cpp's GGUF; publish the PEFT folder that it was made from"),
    (b"PK\x03\x04", f"is a pickle of torch.save (or a zip) under another name; load it with PEFT and {_SAVE}"),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"\x1f\x8b", "is gzip under another name; unpack it first"),
    (b"\x93NUMPY", f"is a NumPy array under another name; {_SAVE}"),
)
_PAGE = "is a web page: the download was answered with an error; log in and download it again"
_JSON = "is a message, no weights: the download was answered with an error; log in and download it again"

_FILES = (
    (r".*\.gguf", "is llama.cpp's GGUF; publish the PEFT folder that it was made from"),
    (
        r"adapter_model\.(bin|pt|pth|ckpt)",
        f"is a pickle, which could run code and is never read; load it with PEFT and {_SAVE}(safe_serialization=True)",
    ),
    (r"lora\.safetensors", _MISTRAL),
    (r"adapter_\d+\.(pt|bin|safetensors)", _TORCHTUNE),
    (r"pytorch_lora_weights\.(safetensors|bin)", _IMAGE),
    (r"adapters\.npz", "is MLX's of before 2024; save it again with mlx_lm, which writes adapters.safetensors"),
    (
        r"(pytorch_model|model)(-\d+-of-\d+)?\.(bin|safetensors)",
        "is a whole model's, and there is no adapter_config.json; serve a merged model as a base with "
        "`turntable serve --model FOLDER`, or publish the adapter before it was merged",
    ),
    (
        r"(mp_rank_\d+_model_states|.*_optim_states)\.pt",
        "is DeepSpeed's own checkpoint; run its zero_to_fp32.py, load the weights with PEFT and save them again",
    ),
    (r".*\.distcp", "is FSDP's sharded checkpoint; merge it with accelerate merge-weights, load it with PEFT, save it"),
)

_TENSORS = (
    (
        r"(lora_(unet|te\d?|transformer)_|(unet|transformer|text_encoder(_2)?)\.|.*\.(processor|lora_(down|up))\.).*",
        _IMAGE,
    ),
    (r"layers\.\d+\.(attention|feed_forward)\..*lora_[AB]\.weight", _MISTRAL),
    (r"layers\.\d+\.(attn|mlp)\..*lora_[ab]\.weight", _TORCHTUNE),
    (r".*\.lora_[ab]", f"is MLX's, which stores matrices the other way round; {CONVERT}"),
    (r".*(lora_magnitude_vector.*|\.lora_m|\.m)", "is a DoRA magnitude; train with use_dora=false"),
    (
        r".*\.base_layer\..*",
        f"is a weight of the base itself: the whole wrapped model was saved; {_SAVE}, which keeps the adapter alone",
    ),
    (r".*modules_to_save.*", "is a fully trained module (modules_to_save); train without modules_to_save"),
    (
        r".*(lora_embedding_[AB].*|token_adapter.*|trainable_tokens.*)",
        "is an adapted embedding or a trained token; target linear layers only and train without new tokens",
    ),
    (r".*\.lora_[AB](\.\w+)?\.bias", "is a bias; train with bias='none' and lora_bias=false"),
    (r".*\.lora_E(\..*)?|.*ranknum.*", "is AdaLoRA's; train plain LoRA"),
    (r".*\.(ia3_|vera_|oft_|boft_|hada_|lokr_|fourierft_|miss_|bone_).*", "is another PEFT method's; train plain LoRA"),
    (r"prompt_embeddings|.*prompt_encoder.*", "is a prompt's, not LoRA; train plain LoRA"),
)
_WHOLE = (
    "is a weight of a model, no LoRA matrix: a merged or fully trained model was saved; publish the adapter alone, or "
    "serve the model as a base"
)
_TRAINED = (
    "is a weight and no LoRA matrix: a fully trained module (modules_to_save), or the whole wrapped model was saved; "
    f"train without modules_to_save, and {_SAVE}"
)
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "in_proj_qkv": ("q_proj", "k_proj", "v_proj"),
    "Wqkv": ("q_proj", "k_proj", "v_proj"),
    "W_pack": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def bytes_origin(head: bytes) -> str | None:
    """Identify a file by its first bytes; None when it may be safetensors."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return _PAGE
    if text.startswith((b'{"', b"[{", b"entry not found", b"invalid username", b"unauthorized", b"access to model")):
        return _JSON
    return next((origin for magic, origin in _HEADS if head.startswith(magic)), None)


def files_origin(names: Collection[str]) -> tuple[str, str] | None:
    """Identify another tool by its files; returns the file and the advice."""
    for pattern, origin in _FILES:
        for name in sorted(names):
            if re.fullmatch(pattern, PurePosixPath(name).name):
                return name, origin
    return None


def tensor_origin(key: str) -> str | None:
    """Identify another tool or method than LoRA by a tensor name; None when unknown."""
    return next((origin for pattern, origin in _TENSORS if re.fullmatch(pattern, key)), None)


def unknown_tensor(key: str) -> str:
    """Return the message for an unknown tensor."""
    if key.endswith(".weight") and "lora" not in key:
        return _TRAINED if key.startswith("base_model.") else _WHOLE
    return "is not a LoRA A or B matrix, so the engine would refuse or drop it; train plain LoRA"


def config_origin(raw: Mapping[str, Any]) -> str:
    """Identify an adapter_config.json without a PEFT method."""
    if raw.keys() & {"lora_parameters", "fine_tune_type", "lora_layers"}:
        return f"is missing: this is MLX's adapter_config.json; {CONVERT}"
    if raw.keys() >= {"rank", "alpha"}:
        return "is missing: this is mlx-vlm's adapter_config.json, whose scale is not stated; train with PEFT or mlx_lm"
    if raw.keys() & {"architectures", "model_type"}:
        return "is missing: this is a model's config.json; publish the adapter's own folder"
    fields = ", ".join(ascii(name)[1:-1] for name in list(raw)[:6]) or "none"
    return f"is missing: this is no PEFT configuration (its fields: {fields:.120}); {_SAVE}"


def module_origin(module: str, modules: Collection[str]) -> str:
    """Explain why a module of the adapter is missing in the base model."""
    path, _, leaf = module.rpartition(".")
    parts = _FUSED.get(leaf, ())
    if parts and any(f"{path}.{part}" in modules or _has(modules, part) for part in parts):
        return (
            f"is fused, the served base has {', '.join(parts[:-1])} and {parts[-1]} apart; train on the base as it is "
            "served, with these as target_modules"
        )
    fused = next((name for name, split in _FUSED.items() if leaf in split and _has(modules, name)), None)
    if fused:
        return f"is one part of what the served base has fused as {fused}; train with {fused} in target_modules"
    if re.search(r"(^|\.)(language_model|text_model|visual|vision_tower|vision_model)\.", module):
        return (
            "belongs to a multimodal model class, the served base is another; serve the model it was trained on, or "
            "train on the base that is served"
        )
    if f"model.{module}" in modules:
        return (
            "is a module of the base without its 'model.': it was trained on the bare AutoModel; train on "
            "AutoModelForCausalLM with task_type CAUSAL_LM"
        )
    return "is no module of the served base, so it would have no effect; train on the base that is served"


def _has(modules: Collection[str], leaf: str) -> bool:
    return any(module.endswith(f".{leaf}") for module in modules)
