"""Convert adapters of other tools to PEFT's layout, where the result is provably the same adapter.

Wrapper prefixes leave the names, shards become one file, and MLX's matrices are transposed. MLX computes
`scale * (x a) b` where PEFT computes `lora_alpha / r * B (A x)`; so A is the transpose of `lora_a`, B that of `lora_b`,
and `lora_alpha` is `scale * r`. Numbers are copied bit by bit. Preflight checks that the result fits the base model.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.errors import PreflightError
from adapters.layout import TOKENIZER_FILES
from adapters.manifest import CARD_FILE, CONFIG_FILE, PARITY_FILE, TRAINING_FILE, WEIGHTS_FILE, Conversion, file_sha256
from adapters.origins import tensor_origin
from adapters.peft_config import read_object
from adapters.tensor_file import PREFIX, Tensor, plain_module, plain_name, read_header

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MLX_SIDES = {"lora_a": "A", "lora_b": "B"}
_NO_WEIGHTS = (CONFIG_FILE, TRAINING_FILE, PARITY_FILE, CARD_FILE, *TOKENIZER_FILES)


@dataclass(frozen=True, slots=True)
class _Source:
    """Source of a tensor of the new file, and whether it is transposed."""

    file: Path
    tensor: Tensor
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1] if self.turned else self.tensor.shape

    def read(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.tensor.begin)
            content = file.read(self.tensor.end - self.tensor.begin)
        if not self.turned:
            return content
        numbers = np.frombuffer(content, f"V{_WIDTHS[self.tensor.dtype]}").reshape(self.tensor.shape)
        return np.ascontiguousarray(numbers.T).tobytes()


def convert(directory: Path) -> Conversion | None:
    """Convert an adapter directory to PEFT's layout; returns the steps, None when it has that layout.

    Raises `PreflightError` when it is no adapter that can be converted with certainty.
    """
    raw = read_object(directory / CONFIG_FILE)
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name not in _NO_WEIGHTS)
    if not files:
        return None  # preflight says so
    tensors = {(path, key): tensor for path in files for key, tensor in read_header(path).items()}
    is_mlx = "peft_type" not in raw and bool(raw.keys() & {"lora_parameters", "fine_tune_type", "lora_layers"})
    sources, steps = _mlx_tensors(tensors) if is_mlx else _renamed(tensors)
    config = _mlx_config(raw, sources) if is_mlx else _plain_config(raw)
    if [path.name for path in files] != [WEIGHTS_FILE]:
        steps = (*steps, f"weights taken from {', '.join(path.name for path in files[:3])}")
    if not steps and config == raw:
        return None
    original = {path.name: file_sha256(path) for path in (directory / CONFIG_FILE, *files)}
    _replace(directory, sources, config, files)
    listed = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(original.items()))
    return Conversion(
        steps=steps or ("names in adapter_config.json",),
        original_digest=hashlib.sha256(listed.encode()).hexdigest(),
        original_files=original,
    )


def _renamed(tensors: Mapping[tuple[Path, str], Tensor]) -> tuple[dict[str, _Source], tuple[str, ...]]:
    sources, steps = dict[str, _Source](), dict[str, None]()
    for (path, key), tensor in tensors.items():
        name, changes = plain_name(key) if tensor_origin(key) is None else (key, ())
        if name in sources:
            raise PreflightError(
                f"{path.name}: {key:.300}", "is there twice once names are plain; save one adapter alone."
            )
        sources[name] = _Source(path, tensor)
        steps.update(dict.fromkeys(f"names adjusted: {change}" for change in changes))
    return sources, tuple(steps)


def _mlx_tensors(tensors: Mapping[tuple[Path, str], Tensor]) -> tuple[dict[str, _Source], tuple[str, ...]]:
    sources = dict[str, _Source]()
    for (path, key), tensor in tensors.items():
        module, _, side = key.rpartition(".")
        if side not in _MLX_SIDES or len(tensor.shape) != 2 or tensor.dtype not in _WIDTHS:
            raise PreflightError(
                f"{path.name}: {key:.300}", "is no matrix of MLX's plain LoRA; train with fine_tune_type lora."
            )
        sources[f"{PREFIX}{module}.lora_{_MLX_SIDES[side]}.weight"] = _Source(path, tensor, turned=True)
    return sources, ("matrices of MLX turned round, lora_alpha = scale * rank",)


def _mlx_config(raw: Mapping[str, Any], sources: Mapping[str, _Source]) -> dict[str, Any]:
    """Return PEFT's configuration of an MLX adapter, with every adapted module named in full."""
    if raw.get("fine_tune_type", "lora") != "lora":
        raise _field("fine_tune_type", f"is {raw['fine_tune_type']!r:.100}; only MLX's lora can be served")
    parameters = raw.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise _field("lora_parameters", "is missing, so the scale is not known; save the adapter again with mlx_lm")
    if "alpha" in parameters:
        raise _field(
            "lora_parameters.alpha",
            "is there beside 'scale': some versions of mlx_lm multiply by alpha / rank and others do not, so the scale "
            "is not certain; write what yours multiplies with as 'scale' and take 'alpha' out",
        )
    scale: Any = parameters.get("scale")
    if type(scale) not in (int, float) or not math.isfinite(scale) or scale <= 0:
        raise _field("lora_parameters.scale", f"is {scale!r:.100}; it must be the positive scale it was trained with")
    ranks = {source.shape[0] for name, source in sources.items() if name.endswith(".lora_A.weight")}
    if len(ranks) != 1 or parameters.get("rank", *ranks) not in ranks:
        raise _field("lora_parameters.rank", "is not the rank of the tensors; restore the config it was saved with")
    (rank,) = ranks
    modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in sources}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(raw.get("model", "")),
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "use_rslora": False,
        "bias": "none",
    }


def _plain_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with wrapper prefixes removed from module names."""
    plain = dict(raw)
    for name in ("target_modules", "exclude_modules"):
        if isinstance(raw.get(name), list):
            plain[name] = [plain_module(one)[0] if isinstance(one, str) else one for one in raw[name]]
    for name in ("rank_pattern", "alpha_pattern"):
        if isinstance(raw.get(name), dict):
            plain[name] = {plain_module(key)[0]: value for key, value in raw[name].items()}
    return plain


def _replace(directory: Path, sources: Mapping[str, _Source], config: Mapping[str, Any], files: list[Path]) -> None:
    """Write weights and configuration, then remove the converted files."""
    written, entries, end = directory / ".converted", dict[str, Any](), 0
    for name, source in sources.items():
        begin, end = end, end + source.tensor.end - source.tensor.begin
        entries[name] = {"dtype": source.tensor.dtype, "shape": list(source.shape), "data_offsets": [begin, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with written.open("xb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for source in sources.values():
            out.write(source.read())
    for path in files:
        path.unlink()
    written.rename(directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


def _field(name: str, problem: str) -> PreflightError:
    return PreflightError(f"{CONFIG_FILE}: {name}", f"{problem}.")
