"""adapter_config.json: the fields the engine serves, and a typed refusal for each one it would refuse or ignore.

What vLLM 0.32 takes was established by loading PEFT 0.21 adapters into it one feature at a time: some features are
refused late with an HTTP 500, others are ignored without a word, which is worse.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from adapters.errors import PreflightError
from adapters.manifest import CONFIG_FILE

ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

_UNSUPPORTED = {
    "use_dora": "the engine cannot serve DoRA; train with use_dora=false",
    "lora_bias": "the engine cannot serve LoRA biases; train with lora_bias=false",
    "modules_to_save": "the engine cannot serve fully trained modules; train without modules_to_save",
    "trainable_token_indices": "the engine cannot serve trained tokens; train without new tokens",
    "target_parameters": "the engine ignores target_parameters, so they would have no effect; target modules instead",
    "layer_replication": "the engine cannot replicate layers; train on the base as it is served",
    "alora_invocation_tokens": "the engine cannot serve activated LoRA; train plain LoRA",
    "use_qalora": "the engine cannot serve QALoRA; train plain LoRA",
    "use_bdlora": "the engine cannot serve BD-LoRA; train plain LoRA",
    "kasa_config": "the engine ignores KaSA, so its answers would be others; train plain LoRA",
    "monteclora_config": "the engine ignores MonteCLoRA, so its answers would be others; train plain LoRA",
    "velora_config": "the engine ignores VeLoRA, so its answers would be others; train plain LoRA",
    "arrow_config": "the engine ignores Arrow routing, so its answers would be others; train plain LoRA",
    "megatron_config": "the engine cannot serve Megatron layers; train plain LoRA",
}
_SERVED_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")


@dataclass(frozen=True)
class PeftConfig:
    """The parts of adapter_config.json that decide how an adapter is served; `raw` is the whole document."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    max_rank: int
    raw: dict[str, Any]


def read_peft_config(directory: Path) -> PeftConfig:
    """Read and check adapter_config.json; raises `PreflightError` naming the field and the fix."""
    raw = read_object(directory / CONFIG_FILE)
    if raw.get("peft_type") != "LORA":
        raise _field("peft_type", f"is {raw.get('peft_type')!r}; only LORA adapters can be served")
    for name, problem in _UNSUPPORTED.items():
        if raw.get(name):
            raise _field(name, problem)
    if raw.get("bias", "none") != "none":
        raise _field("bias", f"is {raw['bias']!r}; the engine cannot serve biases, train with bias='none'")
    if raw.get("init_lora_weights", True) not in _SERVED_INITS:
        raise _field(
            "init_lora_weights",
            f"is {raw['init_lora_weights']!r}, which changes the base's own weights; convert the adapter to plain LoRA",
        )
    r = _positive_int(raw, "r")
    pattern = raw.get("rank_pattern") or {}
    if not isinstance(pattern, dict) or not all(type(rank) is int and rank > 0 for rank in pattern.values()):
        raise _field("rank_pattern", "must map module names to positive ranks")
    alpha = raw.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or alpha <= 0:
        raise _field("lora_alpha", f"is {alpha!r}; it must be a positive number")
    return PeftConfig(r, float(alpha), _targets(raw), max([r, *pattern.values()]), raw)


def _targets(raw: dict[str, Any]) -> tuple[str, ...]:
    targets = raw.get("target_modules")
    if isinstance(targets, str) and targets:
        return (targets,)
    if isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets):
        return tuple(sorted(targets))
    raise _field("target_modules", "must name the adapted modules as a list of strings or one pattern")


def _positive_int(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _field(name, f"is {value!r}; it must be a positive whole number")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an adapter's directory; NaN, broken Unicode and bottomless nesting are refused."""
    if not path.is_file():
        raise PreflightError(path.name, "is missing; give a directory that PEFT's save_pretrained wrote.")
    try:
        document = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise PreflightError(path.name, f"is not JSON ({error}); save the adapter again.") from error
    if not isinstance(document, dict):
        raise PreflightError(path.name, "is not a JSON object; save the adapter again.")
    return document


def _field(name: str, problem: str) -> PreflightError:
    return PreflightError(f"{CONFIG_FILE}: {name}", f"{problem}.")
