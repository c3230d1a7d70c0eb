"""Small adapters of a base model, made without torch: random weights, so that each answers in its own way."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_STRENGTH = 0.3


def write_adapters(base: Path, root: Path, count: int, *, r: int = 8) -> list[Path]:
    """Write `count` PEFT directories below `root`; the number of each decides its weights."""
    shapes = _linear_shapes(base)
    return [_write(root / f"adapter-{number:04}", base, shapes, number, r) for number in range(count)]


def _write(directory: Path, base: Path, shapes: dict[str, tuple[int, int]], seed: int, r: int) -> Path:
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (out, into) in shapes.items():
        a = random.standard_normal((r, into)) / np.sqrt(into * r)
        b = _STRENGTH * random.standard_normal((out, r))
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": sorted({module.rpartition(".")[2] for module in shapes}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _linear_shapes(base: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for shard in sorted(base.glob("*.safetensors")):
        with safe_open(shard, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 it is no mapping
                if key.endswith("_proj.weight"):
                    out, into = tensors.get_slice(key).get_shape()
                    found[key.removesuffix(".weight")] = (out, into)
    return found
