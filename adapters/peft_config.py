"""Read adapter_config.json: the fields that the engine serves, and an error for each one it would refuse or ignore.

The rules for vLLM 0.32 were established by loading PEFT 0.21 adapters into it one feature at a time: some features are
refused late with an HTTP 500, others are ignored without a message, which is worse.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from adapters.errors import PreflightError
from adapters.manifest import CONFIG_FILE
from adapters.origins import bytes_origin, config_origin

_Number = TypeVar("_Number", int, float)
# What the engine's --max-lora-rank may be; an adapter of any rank up to it is served, in the first rows of a slot.
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


# Wide enough for every 1 <= lora_alpha <= 2 r with r <= 512, rsLoRA (45 at the most) or not (1/512 at the least), and
# for lora_alpha 64 at rank 1. What lies outside is a slip: the answers would be noise, or the base's own.
MIN_SCALING, MAX_SCALING = 1 / 1024, 64.0
MAX_DOCUMENT_BYTES = 16 << 20
# The engine matches the keys of patterns as regular expressions, inside its own process: only harmless ones are let in.
_PATTERN_KEY = re.compile(r"\^?(?:[\w-]|\\?\.|\\d\+?)*(?:\.\*)?(?:[\w-]|\\?\.|\\d\+?)*\$?", re.ASCII)
_MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class PeftConfig:
    """Fields of adapter_config.json that decide how an adapter is served; `raw` is the whole document."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    raw: dict[str, Any]

    @property
    def max_rank(self) -> int:
        """Largest rank of any module; the engine's slots must hold it."""
        return max([self.r, *self.rank_pattern.values()])

    def rank(self, module: str) -> int:
        """Return the rank of a module by the engine's rule: the first key that is a suffix of its name, else `r`."""
        return _matching(self.rank_pattern, module, self.r)

    def alpha(self, module: str) -> float:
        """Return the `lora_alpha` of a module by the same rule."""
        return _matching(self.alpha_pattern, module, self.lora_alpha)

    @staticmethod
    def is_matched(key: str, module: str) -> bool:
        """Return whether a pattern key matches a module, by the engine's rule."""
        return re.match(rf"(.*\.)?({key})$", module) is not None

    def scaling(self, module: str) -> float:
        """Return the LoRA scaling factor of a module, as the engine applies it."""
        rank, alpha = self.rank(module), self.alpha(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_peft_config(directory: Path) -> PeftConfig:
    """Read and check adapter_config.json; raises `PreflightError` naming the field and the fix."""
    raw = read_object(directory / CONFIG_FILE)
    if raw.get("peft_type") is None:
        raise _field("peft_type", config_origin(raw))
    if raw["peft_type"] != "LORA":
        raise _field("peft_type", f"is {raw['peft_type']!r:.100}; only LORA adapters can be served")
    if raw.get("task_type") not in (None, "CAUSAL_LM"):
        raise _field(
            "task_type",
            f"is {raw['task_type']!r:.100}: it was trained for another task than answering; train with CAUSAL_LM",
        )
    for name, problem in _UNSUPPORTED.items():
        if raw.get(name):
            raise _field(name, problem)
    if raw.get("bias", "none") != "none":
        raise _field("bias", f"is {raw['bias']!r:.100}; the engine cannot serve biases, train with bias='none'")
    if raw.get("init_lora_weights", True) not in _SERVED_INITS:
        raise _field(
            "init_lora_weights",
            f"is {raw['init_lora_weights']!r:.100}, which changes the base's own weights; convert it to plain LoRA",
        )
    if not isinstance(raw.get("use_rslora", False), bool):
        raise _field("use_rslora", f"is {raw['use_rslora']!r:.100}; it must be true or false")
    config = PeftConfig(
        r=_positive_int(raw, "r"),
        lora_alpha=_positive_number("lora_alpha", raw.get("lora_alpha")),
        target_modules=_targets(raw),
        use_rslora=raw.get("use_rslora", False),
        rank_pattern=_pattern(raw, "rank_pattern", _is_rank, "positive ranks"),
        alpha_pattern=_pattern(raw, "alpha_pattern", _is_alpha, "positive numbers"),
        raw=raw,
    )
    _check_scalings(config)
    return config


def _check_scalings(config: PeftConfig) -> None:
    """Check the scaling of modules, with and without a pattern key."""
    for key in ("", *config.rank_pattern, *config.alpha_pattern):
        rank, alpha = config.rank_pattern.get(key, config.r), config.alpha_pattern.get(key, config.lora_alpha)
        scaling = alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
        if not MIN_SCALING <= scaling <= MAX_SCALING:
            field = "alpha_pattern" if key in config.alpha_pattern else "rank_pattern" if key else "lora_alpha"
            raise _field(
                field,
                f"scales the adapter by {scaling:g}, outside 1/{1 / MIN_SCALING:g} to {MAX_SCALING:g}; "
                "restore the lora_alpha and r it was trained with",
            )


def _matching(pattern: Mapping[str, _Number], module: str, otherwise: _Number) -> _Number:
    return next((value for key, value in pattern.items() if PeftConfig.is_matched(key, module)), otherwise)


def is_plain_key(key: str) -> bool:
    """Return whether a key of `rank_pattern` or `alpha_pattern` is one that the engine may match."""
    return len(key) <= _MAX_KEY_LENGTH and _PATTERN_KEY.fullmatch(key) is not None


def _pattern(raw: dict[str, Any], name: str, is_value: Callable[[object], bool], values: str) -> dict[str, Any]:
    pattern = raw.get(name) or {}
    if not isinstance(pattern, dict) or not all(map(is_value, pattern.values())):
        raise _field(name, f"must map module names to {values}")
    for key in pattern:
        if not is_plain_key(key):
            raise _field(name, f"has the key {key!r:.100}; name modules plainly, with at most one '.*'")
    return pattern


def _is_rank(value: object) -> bool:
    return type(value) is int and value > 0


def _is_alpha(value: object) -> bool:
    return type(value) in (int, float) and value > 0  # type: ignore[operator]


def _targets(raw: dict[str, Any]) -> tuple[str, ...]:
    targets = raw.get("target_modules")
    if isinstance(targets, str) and targets:
        return (targets,)
    if isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets):
        return tuple(sorted(targets))
    raise _field("target_modules", "must name the adapted modules as a list of strings or one pattern")


def _positive_int(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if type(value) is not int or value <= 0:
        raise _field(name, f"is {value!r:.100}; it must be a positive whole number")
    return value


def _positive_number(name: str, value: object) -> float:
    if type(value) not in (int, float) or value <= 0:  # type: ignore[operator]
        raise _field(name, f"is {value!r:.100}; it must be a positive number")
    return float(value)  # type: ignore[arg-type]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of an adapter; refuses NaN, invalid Unicode and deep nesting."""
    if not path.is_file():
        raise PreflightError(path.name, "is missing; give a directory that PEFT's save_pretrained wrote.")
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise PreflightError(path.name, f"is larger than {MAX_DOCUMENT_BYTES >> 20} MiB; save the adapter again.")
    content = path.read_bytes()
    if not content.startswith((b"{", b"[")) and (origin := bytes_origin(content[:512])):
        raise PreflightError(path.name, f"{origin}.")
    try:
        document = orjson.loads(content)
    except ValueError as error:
        raise PreflightError(path.name, f"is not JSON ({error}); save the adapter again.") from error
    if not isinstance(document, dict):
        raise PreflightError(path.name, "is not a JSON object; save the adapter again.")
    return document


def _field(name: str, problem: str) -> PreflightError:
    return PreflightError(f"{CONFIG_FILE}: {name}", f"{problem}.")
