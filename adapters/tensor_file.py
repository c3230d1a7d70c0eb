"""Read safetensors files without torch: strict header parsing, magnitudes of tensors, PEFT's tensor names."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from adapters.errors import PreflightError
from adapters.manifest import WEIGHTS_FILE
from adapters.origins import bytes_origin

MAX_HEADER_BYTES = 32 << 20
_CHUNK_BYTES = 4 << 20
_LENGTH_BYTES = 8
_HEAD_BYTES = 512
# For each dtype that the engine takes: the integer of its width, the bits of the magnitude, and the float it reads as.
_FLOATS: dict[str, tuple[npt.DTypeLike, int, npt.DTypeLike]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, np.float64),
    "F32": (np.uint32, 0x7FFF_FFFF, np.float32),
    "F16": (np.uint16, 0x7FFF, np.float16),
    "BF16": (np.uint16, 0x7FFF, None),
}

PREFIX = "base_model.model."
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
_PARALLEL = "module"
_NAMED = re.compile(r"(?P<matrix>.+\.lora_[AB])\.(?P<adapter>[^.]+)(?P<weight>\.weight)")
_BARE = re.compile(r".+\.lora_[AB]")
_MATRIX = re.compile(r".+\.lora_[AB]\.weight")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file; `begin` and `end` are its byte offsets."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def is_float(self) -> bool:
        """Return whether the engine can load this dtype."""
        return self.dtype in _FLOATS


def read_header(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name; raises `PreflightError` for an invalid file."""
    if not path.is_file():
        raise PreflightError(
            WEIGHTS_FILE, "is missing; only safetensors are served, so save with safe_serialization=True."
        )
    with path.open("rb") as file:
        if origin := bytes_origin(file.read(_HEAD_BYTES)):
            raise PreflightError(WEIGHTS_FILE, f"{origin}.")
        file.seek(0)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise PreflightError(
                WEIGHTS_FILE,
                f"is no safetensors file (its header claims {length} bytes of {path.stat().st_size}); save the adapter "
                "with PEFT, or download it again.",
            )
        raw = file.read(length)
    try:
        with safe_open(path, framework="numpy"):  # sees to it that tensors neither overlap nor leave gaps nor the file
            pass
        entries = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise PreflightError(WEIGHTS_FILE, f"cannot be read ({reason:.200}); upload the file again.") from error
    start = _LENGTH_BYTES + length
    return {key: _tensor(entry, start) for key, entry in entries.items() if key != "__metadata__"}


def peak(file: BinaryIO, tensor: Tensor) -> float:
    """Return the largest magnitude in a float tensor, in bounded memory; inf or nan when one value is.

    The bits of a float's magnitude, read as a whole number, are in the order of the magnitudes, with infinity and NaN
    above all others; so one maximum over integers answers for every dtype.
    """
    integer, magnitude, as_float = _FLOATS[tensor.dtype]
    width = np.dtype(integer)
    largest = np.zeros(1, width)
    file.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        block = np.frombuffer(file.read(min(left, _CHUNK_BYTES)), width.newbyteorder("<"))
        left -= block.nbytes
        largest = np.maximum(largest, (block & width.type(magnitude)).max(initial=0))
    if as_float is None:  # bfloat16 is the upper half of a float32
        return float((largest.astype(np.uint32) << 16).view(np.float32)[0])
    return float(largest.view(as_float)[0])


def read_values(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read the tensors of a safetensors file that preflight accepted, in fp32."""
    values = dict[str, npt.NDArray[np.float32]]()
    with path.open("rb") as file:
        for name, tensor in read_header(path).items():
            integer, _, as_float = _FLOATS[tensor.dtype]
            file.seek(tensor.begin)
            numbers = np.frombuffer(file.read(tensor.end - tensor.begin), np.dtype(integer).newbyteorder("<"))
            if as_float is None:  # bfloat16 is the upper half of a float32
                numbers, as_float = numbers.astype(np.uint32) << 16, np.float32
            values[name] = numbers.view(as_float).astype(np.float32).reshape(tensor.shape)
    return values


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its header names {name!r} twice")
        found[name] = value
    return found


def _tensor(entry: dict[str, Any], start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    return Tensor(entry["dtype"], tuple(entry["shape"]), start + begin, start + end)


def plain_module(name: str) -> tuple[str, tuple[str, ...]]:
    """Return a module's name without wrappers, and what was removed, in words."""
    kept, taken = list[str](), list[str]()
    for part in name.split("."):
        if part in _WRAPPERS:
            taken.append(f"'{part}.' of {_WRAPPERS[part]}")
        elif part == _PARALLEL and kept in ([], ["base_model"], ["base_model", "model"]):
            taken.append(f"'{part}.' of DDP or DeepSpeed")
        else:
            kept.append(part)
    return ".".join(kept), tuple(taken)


def plain_name(key: str) -> tuple[str, tuple[str, ...]]:
    """Return PEFT's name of an A or B matrix, and what was changed, in words; other names are kept."""
    name, taken = plain_module(key)
    changes = list(taken)
    if (match := _NAMED.fullmatch(name)) is not None:
        changes.append(f"PEFT's own name for the adapter, '.{match['adapter']}'")
        name = f"{match['matrix']}{match['weight']}"
    elif _BARE.fullmatch(name):
        changes.append("no '.weight' at the end")
        name = f"{name}.weight"
    if not _MATRIX.fullmatch(name):
        return key, ()
    if not name.startswith(PREFIX):
        changes.append(f"no '{PREFIX}' in front")
        name = f"{PREFIX}{name}"
    return name, tuple(changes)
