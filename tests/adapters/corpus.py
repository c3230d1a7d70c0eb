"""The corpus: every way for an adapter to be good that the engine serves, and every way to be broken that we know of.

Each kind is a function that writes an adapter's directory. The broken kinds come with the place where preflight must
say that they are broken; most of them vLLM loads without an error, and serves the base's answers, or noise.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.adapters.conftest import ALL_LINEAR, ATTENTION, Q0, Adapter, Shapes, Tensors, in_layers, key, lora

MAX_RANK = 16
CONFIG, WEIGHTS, TRAINING = "adapter_config.json", "adapter_model.safetensors", "training.json"
PARITY = "parity.json"
FIRST = "model.layers.0.mlp.down_proj"  # tensors are read in the order of their names
FIRST_ATTENTION = "model.layers.0.self_attn.o_proj"
Write = Callable[[Path], object]
Raw = Mapping[str, tuple[str, list[int], bytes]]


def changed(change: Callable[[Adapter], object]) -> Write:
    """A good adapter, changed before it is written."""

    def write(directory: Path) -> None:
        adapter = Adapter()
        change(adapter)
        adapter.write(directory)

    return write


def config(**fields: Any) -> Write:
    return changed(lambda adapter: adapter.config.update(fields))


def training(document: Any) -> Write:
    return changed(lambda adapter: setattr(adapter, "training", document))


def tensors(make: Callable[[Tensors], Tensors]) -> Write:
    return changed(lambda adapter: setattr(adapter, "tensors", make(adapter.tensors)))


def with_tensor(name: str, *shape: int) -> Write:
    return tensors(lambda good: good | {name: np.ones(shape, np.float32)})


def without(name: str) -> Write:
    return tensors(lambda good: {other: tensor for other, tensor in good.items() if other != name})


def renamed(old: str, new: str) -> Write:
    return tensors(lambda good: {name.replace(old, new): tensor for name, tensor in good.items()})


def filled(name: str, value: float) -> Write:
    """One number of one tensor is `value`; it lies at the very end, where a hasty look does not reach."""

    def fill(good: Tensors) -> Tensors:
        good[name][-1, -1] = value
        return good

    return tensors(fill)


def zeros(side: str) -> Write:
    return tensors(lambda good: {n: t * 0 if f"lora_{side}" in n else t for n, t in good.items()})


def resized(shapes: Shapes, factor: float) -> Shapes:
    return {name: (int(rows * factor), int(columns * factor)) for name, (rows, columns) in shapes.items()}


def ranked(r: int, **fields: Any) -> Write:
    """Rank `r` throughout."""

    def change(adapter: Adapter) -> None:
        adapter.config.update(r=r, **fields)
        adapter.tensors = lora(in_layers(ALL_LINEAR), r)

    return changed(change)


def attention_only(adapter: Adapter) -> None:
    adapter.config["target_modules"] = ["q_proj", "v_proj", "o_proj"]
    adapter.tensors = lora(in_layers(ATTENTION))


def queries_of_rank(r: int, **pattern: int) -> Callable[[Adapter], None]:
    def change(adapter: Adapter) -> None:
        adapter.config["rank_pattern"] = pattern
        queries = {name: shape for name, shape in in_layers(ALL_LINEAR).items() if name.endswith("q_proj")}
        adapter.tensors |= lora(queries, r=r)

    return change


def one_layer(adapter: Adapter) -> None:
    adapter.config["layers_to_transform"] = [1]
    adapter.tensors = {name: tensor for name, tensor in adapter.tensors.items() if ".layers.1." in name}


def raw_file(raw: Raw, *, twice: str = "", beyond: int = 0) -> bytes:
    """A safetensors file from bytes, so that it may hold what no library writes."""
    entries, data = [], b""
    for name, (dtype, shape, content) in raw.items():
        offsets = [len(data), len(data) + len(content) + beyond]
        entries.append(f"{json.dumps(name)}:" + json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets}))
        data += content
    header = "{" + ",".join(entries + [entry for entry in entries if twice and twice in entry]) + "}"
    return struct.pack("<Q", len(header)) + header.encode() + data


def raw_tensors(dtype: str, width: int, convert: Callable[[npt.NDArray[np.float32]], bytes]) -> Raw:
    return {
        name: (dtype, list(tensor.shape), convert(tensor)[: tensor.size * width])
        for name, tensor in sorted(Adapter().tensors.items())
    }


def bfloat16(tensor: npt.NDArray[np.float32]) -> bytes:
    return (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()


def weights(content: bytes | Callable[[bytes], bytes]) -> Write:
    """A good adapter whose weights file is another one, or is damaged."""

    def write(directory: Path) -> None:
        path = Adapter().write(directory) / WEIGHTS
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return write


def document(name: str, content: bytes) -> Write:
    """A good adapter in which one of the JSON files holds these bytes."""
    return lambda directory: (Adapter().write(directory) / name).write_bytes(content)


def parity(**fields: Any) -> Write:
    """A good adapter with one row of parity vectors, in which these fields are other ones; None leaves one out."""
    row = {"input_ids": [1, 2, 3], "positions": [2], "base": [-2.0], "adapter": [-1.0]} | fields
    kept = {name: value for name, value in row.items() if value is not None}
    return document(PARITY, json.dumps({"format": 1, "rows": [kept]}).encode())


def without_config(directory: Path) -> None:
    (Adapter().write(directory) / CONFIG).unlink()


def pickled(directory: Path) -> None:
    (Adapter().write(directory) / WEIGHTS).rename(directory / "adapter_model.bin")


F32 = raw_tensors("F32", 4, lambda tensor: tensor.tobytes())
BF16 = raw_tensors("BF16", 2, bfloat16)
NAN_BF16 = {**BF16, key(Q0, "B"): (BF16[key(Q0, "B")][0], BF16[key(Q0, "B")][1], b"\xc0\x7f" * 128)}

GOOD: dict[str, Write] = {
    "all-linear": config(),
    "attention only": changed(attention_only),
    "rsLoRA": config(use_rslora=True),
    "rank 1": ranked(1, lora_alpha=64),
    "a rank between two slot sizes": ranked(5),
    "the highest rank there is room for": ranked(MAX_RANK),
    "rank pattern": changed(queries_of_rank(16, q_proj=16)),
    "rank pattern by full name and pattern": changed(
        queries_of_rank(4, **{r"^model\.layers\.\d+.self_attn.q_proj$": 4, "nowhere": 2})
    ),
    "alpha pattern": config(alpha_pattern={"q_proj": 32}),
    "one layer": changed(one_layer),
    "regex targets": config(target_modules=r".*_proj"),
    "excluded modules": config(exclude_modules=["k_proj"]),
    "gaussian init": config(init_lora_weights="gaussian"),
    "a target that matches nothing": changed(lambda adapter: adapter.config["target_modules"].append("nowhere")),
    "float16": tensors(lambda good: {name: tensor.astype(np.float16) for name, tensor in good.items()}),
    "float64": tensors(lambda good: {name: tensor.astype(np.float64) for name, tensor in good.items()}),
    "bfloat16": weights(raw_file(BF16)),
    "one module that learnt nothing": tensors(lambda good: good | {key(Q0, "B"): good[key(Q0, "B")] * 0}),
    "a null where PEFT writes nothing": config(rank_pattern=None, alpha_pattern=None, modules_to_save=None),
}
