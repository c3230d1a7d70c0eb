"""Preflight, without torch: refuse adapters that the engine would reject, or load and serve wrongly.

vLLM loads many broken adapters without an error and serves the base's answers under their name, or noise. So every
tensor must bind to a module of the base with the right shape, every A needs its B, every number must fit the engine's
16 bits, and training.json must name the base, tokenizer and chat template that are served.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from adapters.base_model import BaseModel
from adapters.coverage import check_coverage, coverage_remarks, pattern_remarks
from adapters.errors import PreflightError
from adapters.manifest import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from adapters.origins import CONVERT, module_origin, tensor_origin, unknown_tensor
from adapters.parity_file import read_parity
from adapters.peft_config import ENGINE_RANKS, PeftConfig, read_object, read_peft_config
from adapters.tensor_file import PREFIX, Tensor, peak, plain_name, read_header
from adapters.tokenizer_check import check_template_kwargs, check_tokenizer, tokenizer_remarks

# Each field of training.json, and what the served base calls the same; the weights come last, as their hash takes long.
_RECORDED = {
    "base_config_sha256": "config_sha256",
    "tokenizer_sha256": "tokenizer_sha256",
    "chat_template_sha256": "chat_template_sha256",
    "base_weights_sha256": "weights_sha256",
}
_FIX = {
    "tokenizer_sha256": "its tokens would mean other words; serve the tokenizer it was trained with, or train again",
    "chat_template_sha256": "its prompts would look other than in training; serve that template, or train again",
}

_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MODULE = re.compile(r"\w+(\.\w+)*", re.ASCII)
_LARGEST = 65_504.0  # of float16, which engines compute in; bfloat16 reaches further, but no trained number does
_Pairs = Mapping[str, tuple[Tensor, Tensor]]


def check_lineage(directory: Path, base: BaseModel | None) -> None:
    """Raise `PreflightError` when training.json names another base, tokenizer or chat template than is served, or sets
    an argument of the engine's.

    Adapters trained elsewhere come without the file and are bound by their tensors alone. What the file does not
    record, or the base does not have, is not compared.
    """
    path = directory / TRAINING_FILE
    if not path.is_file():
        return
    recorded = read_object(path)
    check_template_kwargs(recorded)
    for field, attribute in _RECORDED.items():
        trained_on = recorded.get(field)
        if base is None or trained_on is None:
            continue
        served = getattr(base, attribute)
        if served is not None and trained_on != served:
            fix = _FIX.get(field, "train on the base that is served")
            raise PreflightError(f"{TRAINING_FILE}: {field}", f"is {trained_on!s:.12}, served is {served:.12}; {fix}.")


def preflight(directory: Path, base: BaseModel | None, *, max_rank: int) -> PeftConfig:
    """Check a PEFT directory against the base it will be served on; raises `PreflightError` naming what is wrong.

    `base` may be None when the engine is attached and its files are out of reach: names and pairs are then still
    checked, shapes and lineage are not. `max_rank` is the engine's `--max-lora-rank`. Weights are read once, in blocks.
    """
    config = read_peft_config(directory)
    if config.max_rank > max_rank:
        wanted = next((rank for rank in ENGINE_RANKS if rank >= config.max_rank), None)
        fix = f"start the engine with --max-lora-rank {wanted}" if wanted else f"train with r <= {ENGINE_RANKS[-1]}"
        field = "r" if config.r == config.max_rank else "rank_pattern"
        raise PreflightError(f"{CONFIG_FILE}: {field}", f"is {config.max_rank}, over the engine's {max_rank}; {fix}.")
    pairs = _pair_tensors(read_header(directory / WEIGHTS_FILE))
    for module, (a, b) in pairs.items():
        _check_pair(module, a, b, config)
        if base is not None:
            _check_binding(module, a, b, base)
    if base is not None:
        check_coverage(pairs.keys(), config, base)
    check_lineage(directory, base)
    check_tokenizer(directory, base)
    read_parity(directory, base)
    _check_numbers(directory / WEIGHTS_FILE, pairs, config)
    return config


def remarks(directory: Path, base: BaseModel | None, config: PeftConfig) -> tuple[str, ...]:
    """List remarks about an adapter that passed preflight, as sentences."""
    adapted = _pair_tensors(read_header(directory / WEIGHTS_FILE)).keys()
    found = [*pattern_remarks(adapted, config), *tokenizer_remarks(directory, base)]
    return (*(coverage_remarks(adapted, config, base) if base is not None else ()), *found)


def _pair_tensors(tensors: Mapping[str, Tensor]) -> _Pairs:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        match = _TENSOR.fullmatch(key)
        if problem := _problem_of_name(key):
            raise _tensor(key, problem)
        assert match is not None, "PEFT's own names match"
        if tensor.shape == (0,):
            raise _tensor(
                key,
                "is empty: DeepSpeed's ZeRO-3 had it in parts when it was saved; set "
                "stage3_gather_16bit_weights_on_model_save, or run zero_to_fp32.py, and save again",
            )
        if not tensor.is_float:
            raise _tensor(key, f"holds {tensor.dtype}, which the engine would misread; save it as bfloat16 or float32")
        sides.setdefault(match["module"].removeprefix(PREFIX), {})[match["side"]] = tensor
    if not sides:
        raise PreflightError(WEIGHTS_FILE, "holds no LoRA tensors; the adapter would do nothing.")
    for module, found in sides.items():
        if not _MODULE.fullmatch(module):
            raise _tensor(module, "is no name of a module; save the adapter again with PEFT")
        if missing := {"A", "B"} - found.keys():
            raise _tensor(
                f"{PREFIX}{module}.lora_{missing.pop()}.weight",
                "is missing, so its pair would do nothing; save the whole adapter again",
            )
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _problem_of_name(key: str) -> str | None:
    """Explain a tensor name that is not a LoRA matrix: another tool, a wrapper, or unknown."""
    _, changes = plain_name(key)
    if not changes and _TENSOR.fullmatch(key) and key.startswith(PREFIX):
        return None
    if origin := tensor_origin(key):
        return origin
    if not changes:
        return unknown_tensor(key)
    return (
        f"has a name that the engine would ignore ({' and '.join(changes)}): a wrapped or bare model was saved; "
        f"{CONVERT}, or save it with PEFT's save_pretrained on the unwrapped model"
    )


def _check_pair(module: str, a: Tensor, b: Tensor, config: PeftConfig) -> None:
    if module.rpartition(".")[2] in ("embed_tokens", "lm_head"):
        raise _tensor(module, "adapts the embeddings or the head; target linear layers only")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _tensor(
            module, f"has A {list(a.shape)} and B {list(b.shape)}, whose ranks do not agree; save the adapter again"
        )
    if a.shape[0] != config.rank(module):
        raise _tensor(
            module,
            f"has rank {a.shape[0]} but adapter_config.json says {config.rank(module)}; "
            "restore the config it was saved with",
        )


def _check_binding(module: str, a: Tensor, b: Tensor, base: BaseModel) -> None:
    shape = base.modules.get(module)
    if shape is None:
        raise _tensor(module, module_origin(module, base.modules.keys()))
    if (b.shape[0], a.shape[1]) != shape:
        raise _tensor(
            module,
            f"fits a module of shape {[b.shape[0], a.shape[1]]}, the base has {list(shape)}; "
            "train on the base that is served",
        )


def _check_numbers(path: Path, pairs: _Pairs, config: PeftConfig) -> None:
    has_effect = False
    with path.open("rb") as file:
        for module, (a, b) in pairs.items():
            peaks = {"A": peak(file, a), "B": peak(file, b) * config.scaling(module)}
            for side, largest in peaks.items():
                _check_peak(f"{PREFIX}{module}.lora_{side}.weight", largest)
            has_effect = has_effect or all(peaks.values())
    if not has_effect:
        raise PreflightError(
            WEIGHTS_FILE, "has A or B all zero in every module, so it would change nothing; train it, or save it again."
        )


def _check_peak(key: str, largest: float) -> None:
    if not math.isfinite(largest):
        raise _tensor(key, "holds NaN or infinity: the training diverged; train with a lower learning rate")
    if largest > _LARGEST:
        raise _tensor(
            key, f"reaches {largest:.3g} when scaled, over {_LARGEST:g} of float16; train with a lower learning rate"
        )


def _tensor(key: str, problem: str) -> PreflightError:
    printable = key if key.isprintable() else ascii(key)
    return PreflightError(f"{WEIGHTS_FILE}: {printable:.300}", f"{problem}.")
