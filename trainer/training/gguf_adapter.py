"""Write an adapter as a GGUF file that llama.cpp loads beside its GGUF of the same base (`llama-server --lora FILE`).

llama.cpp multiplies `adapter.lora.alpha / r * B A x` (`get_scale` in its src/llama-adapter.h), whatever scaled the
adapter in training; a module with another scaling has the factor in its B. Llama's rotary embedding turns pairs of
neighbors there and pairs of half a head apart in transformers, so the rows of q and k are in another order
(llama.cpp's conversion/llama.py). Numbers are in fp32, which holds every bf16 and fp16 number exactly.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adapters.manifest import WEIGHTS_FILE
from adapters.peft_config import PeftConfig
from adapters.tensor_file import PREFIX, read_values
from trainer.errors import RunError
from trainer.files import disk

if TYPE_CHECKING:
    import gguf

_Matrix = npt.NDArray[np.float32]
# llama.cpp's name of each architecture, by the one in config.json.
_ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def write_gguf(adapter: Path, config: PeftConfig, base: Path, base_name: str, target: Path) -> None:
    """Write a checked adapter of `base` to `target`; raises `RunError` when llama.cpp's names are not known for it."""
    import gguf

    model = json.loads((base / "config.json").read_bytes())
    name = _architecture(model, base_name)
    names = gguf.get_tensor_name_map(_by_name(name), model["num_hidden_layers"])
    with disk(target):
        writer = gguf.GGUFWriter(target, name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, _alpha(config))
        writer.add_name(target.stem)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base_name)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for module, a, b in _pairs(adapter / WEIGHTS_FILE):
            if (known := names.get_name(module)) is None:
                raise RunError(f"llama.cpp has no tensor for {module}; train without it, or export another format.")
            b = b * np.float32(config.scaling(module) / (_alpha(config) / len(a)))
            writer.add_tensor(f"{known}.weight.lora_a", a)
            writer.add_tensor(f"{known}.weight.lora_b", _ordered(b, module, model) if name == "llama" else b)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _architecture(model: Mapping[str, Any], base_name: str) -> str:
    """Return llama.cpp's name of the base's architecture."""
    found = [name for name in model.get("architectures") or () if name in _ARCHITECTURES]
    if not found:
        kind = ", ".join(model.get("architectures") or ["an unknown architecture"])
        raise RunError(
            f"{base_name} is {kind}, and GGUF is written for {', '.join(_ARCHITECTURES)}; export --format merged and "
            "convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    return _ARCHITECTURES[found[0]]


def _by_name(name: str) -> "gguf.MODEL_ARCH":
    import gguf

    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)


def _alpha(config: PeftConfig) -> float:
    """Return the alpha by which llama.cpp scales the modules without a pattern as the engine does."""
    return config.r**0.5 * config.lora_alpha if config.use_rslora else config.lora_alpha


def _pairs(weights: Path) -> Iterator[tuple[str, _Matrix, _Matrix]]:
    """Yield module, A (r, in) and B (out, r)."""
    values = read_values(weights)
    for name, a in values.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            yield module, a, values[f"{PREFIX}{module}.lora_B.weight"]


def _ordered(b: _Matrix, module: str, model: Mapping[str, Any]) -> _Matrix:
    """Return the rows of q's or k's B in llama.cpp's order: of each head, row i beside row i + half a head."""
    field = _HEADS.get(module.rpartition(".")[2])
    if field is None:
        return b
    heads = model.get(field) or model["num_attention_heads"]
    halves = b.reshape(heads, 2, -1, b.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(b.shape))
