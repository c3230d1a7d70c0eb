"""Preflight: would this adapter really change the served base, and would the engine take it? No torch, headers only.

vLLM loads many broken adapters without an error and serves the base's answers under their name. So every tensor here
must bind to a module of the base with the right shape, and every A must have its B.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters.base_model import BaseModel
from adapters.errors import PreflightError
from adapters.manifest import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from adapters.peft_config import ENGINE_RANKS, PeftConfig, read_object, read_peft_config

_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_Shape = tuple[int, ...]


def preflight(directory: Path, base: BaseModel | None, *, max_rank: int) -> PeftConfig:
    """Check a PEFT directory against the base it will be served on; raises `PreflightError` naming what is wrong.

    `base` may be None when the engine is attached and its files are out of reach: names and pairs are then still
    checked, shapes are not. `max_rank` is the engine's `--max-lora-rank`.
    """
    config = read_peft_config(directory)
    if config.max_rank > max_rank:
        wanted = next((rank for rank in ENGINE_RANKS if rank >= config.max_rank), None)
        fix = f"start the engine with --max-lora-rank {wanted}" if wanted else f"train with r <= {ENGINE_RANKS[-1]}"
        field = "r" if config.r == config.max_rank else "rank_pattern"
        raise PreflightError(f"{CONFIG_FILE}: {field}", f"is {config.max_rank}, over the engine's {max_rank}; {fix}.")
    pairs = _pair_tensors(_read_shapes(directory))
    for module, (a, b) in pairs.items():
        _check_pair(module, a, b, config)
        if base is not None:
            _check_binding(module, a, b, base)
    _check_lineage(directory, base)
    return config


def _read_shapes(directory: Path) -> Mapping[str, _Shape]:
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise PreflightError(
            WEIGHTS_FILE, "is missing; only safetensors are served, so save with safe_serialization=True."
        )
    try:
        with safe_open(path, framework="numpy") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PreflightError(WEIGHTS_FILE, f"cannot be read ({error}); upload the file again.") from error


def _pair_tensors(shapes: Mapping[str, _Shape]) -> dict[str, tuple[_Shape, _Shape]]:
    sides: dict[str, dict[str, _Shape]] = {}
    for key, shape in shapes.items():
        match = _TENSOR.fullmatch(key)
        if match is None:
            raise _tensor(key, "is not a LoRA A or B matrix, so the engine would refuse or drop it; train plain LoRA")
        if not key.startswith(_PREFIX):
            raise _tensor(key, f"does not begin with '{_PREFIX}', so the engine would ignore it; save it with PEFT")
        sides.setdefault(match["module"].removeprefix(_PREFIX), {})[match["side"]] = shape
    if not sides:
        raise PreflightError(WEIGHTS_FILE, "holds no LoRA tensors; the adapter would do nothing.")
    for module, found in sides.items():
        if missing := {"A", "B"} - found.keys():
            raise _tensor(f"{_PREFIX}{module}.lora_{missing.pop()}.weight", "is missing, so its pair would do nothing")
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _check_pair(module: str, a: _Shape, b: _Shape, config: PeftConfig) -> None:
    if module.rpartition(".")[2] in ("embed_tokens", "lm_head"):
        raise _tensor(module, "adapts the embeddings; target linear layers only")
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise _tensor(module, f"has A {list(a)} and B {list(b)}, whose ranks do not agree; save the adapter again")
    ranks = {config.r, *(config.raw.get("rank_pattern") or {}).values()}
    if a[0] not in ranks:
        raise _tensor(
            module,
            f"has rank {a[0]} but adapter_config.json says {config.r}; restore the config it was saved with",
        )


def _check_binding(module: str, a: _Shape, b: _Shape, base: BaseModel) -> None:
    shape = base.modules.get(module)
    if shape is None:
        raise _tensor(
            module,
            "is no module of the served base, so it would have no effect; train on the base that is served",
        )
    if (b[0], a[1]) != shape:
        raise _tensor(
            module,
            f"fits a module of shape {[b[0], a[1]]}, the base has {list(shape)}; train on the base that is served",
        )


def _check_lineage(directory: Path, base: BaseModel | None) -> None:
    path = directory / TRAINING_FILE
    if not path.is_file():
        return
    trained_on = read_object(path).get("base_config_sha256")
    if base is not None and trained_on is not None and trained_on != base.config_sha256:
        raise PreflightError(
            f"{TRAINING_FILE}: base_config_sha256",
            f"is {trained_on!s:.12}, the served base is {base.config_sha256:.12}; train on the base that is served.",
        )


def _tensor(key: str, problem: str) -> PreflightError:
    return PreflightError(f"{WEIGHTS_FILE}: {key}", f"{problem}.")
