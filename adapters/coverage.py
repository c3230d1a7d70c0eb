"""Check that every module targeted by adapter_config.json has tensors, by PEFT's rules on the base model's modules.

vLLM and PEFT serve the tensors that exist and do not report missing ones. When a kind of module
(`model.layers.*.mlp.up_proj`) is adapted in some layers only, tensors were lost, unless the configuration says so.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from adapters.base_model import BaseModel
from adapters.errors import PreflightError
from adapters.manifest import WEIGHTS_FILE
from adapters.peft_config import PeftConfig

_LAYER = re.compile(r".*\.[^.]+\.(\d+)\.")
_HEADS = ("lm_head", "embed_tokens")
_NAMED = 3


def check_coverage(adapted: Collection[str], config: PeftConfig, base: BaseModel) -> None:
    """Raise `PreflightError` when modules that the configuration names for certain have no tensors."""
    if not _is_exact(config.raw):
        return
    missing = _lost(adapted, _targeted(config.raw, base))
    if missing:
        raise PreflightError(
            WEIGHTS_FILE,
            f"holds {len(adapted)} of {len(adapted) + len(missing)} modules that adapter_config.json targets: "
            f"{_listed(missing)} have no tensors; save the whole adapter again, or, if that is meant, say so with "
            "layers_to_transform or with full module names in target_modules.",
        )


def coverage_remarks(adapted: Collection[str], config: PeftConfig, base: BaseModel) -> Iterator[str]:
    """List modules adapted in part or not at all, where the configuration may intend it."""
    targeted = _targeted(config.raw, base)
    if not _is_exact(config.raw):
        kinds = {_kind(module) for module in adapted}
        missing = _lost(adapted, {module for module in base.modules if _kind(module) in kinds})
        if missing:
            yield (
                f"It adapts {len(adapted)} of {len(adapted) + len(missing)} modules of its kinds: {_listed(missing)} "
                "answer as the base does. Its pattern in adapter_config.json may mean that."
            )
        return
    absent = sorted(targeted - set(adapted) - set(_lost(adapted, targeted)))
    if absent:
        yield (
            f"adapter_config.json targets {_listed(sorted({_kind(module) for module in absent}))} too, which have no "
            "tensors in any layer and answer as the base does."
        )


def pattern_remarks(adapted: Collection[str], config: PeftConfig) -> Iterator[str]:
    """List keys of rank_pattern and alpha_pattern that match no module of the adapter."""
    for field, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in pattern:
            if not any(config.is_matched(key, module) for module in adapted):
                yield f"The key '{key}' of {field} names no module that is adapted, so it has no effect."


def _is_exact(raw: Mapping[str, Any]) -> bool:
    """Return whether the targets are plain names; untrusted patterns are not evaluated."""
    return not isinstance(raw["target_modules"], str) and not isinstance(raw.get("exclude_modules"), str)


def _targeted(raw: Mapping[str, Any], base: BaseModel) -> set[str]:
    if not _is_exact(raw):
        return set()
    targets, excluded = raw["target_modules"], raw.get("exclude_modules") or ()
    layers = raw.get("layers_to_transform")
    wanted = {layers} if isinstance(layers, int) else set(layers) if isinstance(layers, list) else None
    return {
        module
        for module in base.modules
        if _is_named(module, targets)
        and not _is_named(module, excluded)
        and (wanted is None or _layer(module) in wanted)
        and module.rpartition(".")[2] not in _HEADS
    }


def _lost(adapted: Collection[str], targeted: Collection[str]) -> list[str]:
    """Return targeted modules without tensors, of kinds that have tensors in other layers."""
    kinds = {_kind(module) for module in adapted}
    return sorted(module for module in targeted if module not in adapted and _kind(module) in kinds)


def _is_named(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer(module: str) -> int | None:
    match = _LAYER.match(module)
    return int(match[1]) if match else None


def _kind(module: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", module)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest
