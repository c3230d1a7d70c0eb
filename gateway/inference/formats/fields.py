"""Validate known request fields (types, ranges, roles) and count a request's prompts and sequences.

The engine also reads numbers from strings, booleans and fractions, and fails on some that do not fit 64 bits. Here a
number is a number or a 400. Unknown fields pass.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gateway.core import MOST_TOKENS
from gateway.errors import InvalidRequestError

_INT64 = (1 << 63) - 1
_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_WITH_ROLES = frozenset({"/v1/chat/completions", "/tokenize"})
_COMPLETIONS, _EMBEDDINGS = "/v1/completions", "/v1/embeddings"
PROMPTS: Mapping[str, str] = MappingProxyType({_COMPLETIONS: "prompt"})
"""The field of each API that may hold several prompts; an embedding is no answer, so its inputs do not count."""

Check = Callable[[str, Any], None]
"""Raises `InvalidRequestError` naming the field when its value is not what it must be."""


def check_fields(path: str, document: Mapping[str, Any]) -> None:
    """Validate the known fields of a request; raises `InvalidRequestError` naming the first bad one."""
    for name, value in document.items():
        if value is not None and (check := _CHECKS.get(name)) is not None:
            check(name, value)
    if path == _COMPLETIONS and document.get("logprobs") is not None:
        _LOGPROBS("logprobs", document["logprobs"])
    if path == _EMBEDDINGS:
        _prompt("input", document.get("input"))
    if path in _WITH_ROLES:
        _check_roles(document.get("messages"))


def count_sequences(path: str, document: Mapping[str, Any]) -> int:
    """Count the sequences that the engine runs: prompts times answers to each. Call `check_fields` first."""
    return count_prompts(path, document) * max(document.get("n") or 1, document.get("best_of") or 1)


def count_prompts(path: str, document: Mapping[str, Any]) -> int:
    """Count the prompts: one per entry of a list of texts or of token lists; a text or one token list is one."""
    value = document.get(PROMPTS[path]) if path in PROMPTS else None
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def _whole(least: int, most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not int:
            raise InvalidRequestError(f"'{name}' must be a whole number, and is {_found(value)}.", param=name)
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise InvalidRequestError(f"'{name}' is {value}; it must be {bound}.", param=name)

    return check


def _number(name: str, value: Any) -> None:
    if type(value) is not int and type(value) is not float:
        raise InvalidRequestError(f"'{name}' must be a number, and is {_found(value)}.", param=name)


def _whole_numbers(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise InvalidRequestError(f"'{name}' must be a list of whole numbers, and is {_found(value)}.", param=name)
    if value and (set(map(type, value)) != {int} or max(value) > _INT64 or min(value) < -_INT64):
        raise InvalidRequestError(f"'{name}' must hold whole numbers of at most 64 bits.", param=name)


def _numbers_by_key(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"'{name}' must be an object of numbers, and is {_found(value)}.", param=name)
    if not set(map(type, value.values())) <= {int, float}:
        raise InvalidRequestError(f"'{name}' must hold numbers.", param=name)


def _parts(checks: Mapping[str, Check]) -> Check:
    """Return a check of numbers within an object; a value that is no object is the engine's to refuse."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for part, inner in checks.items():
                if value.get(part) is not None:
                    inner(f"{name}.{part}", value[part])

    return check


def _object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"'{name}' must be an object, and is {_found(value)}.", param=name)


def _extras(name: str, value: Any) -> None:
    """Refuse cache transfers, which the engine would take for its own and fail on."""
    if isinstance(value, dict) and not value.keys().isdisjoint({"kv_transfer_params", "ec_transfer_params"}):
        raise InvalidRequestError(f"'{name}' may not hold transfers of caches, which are not served here.", param=name)


def _prompt(name: str, value: Any) -> None:
    """Require a text, token ids, or a list of either; the engine would read token ids from strings and fractions."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, bool | float) or (
        isinstance(first, list) and not all(type(item) is int for item in first[:1])
    ):
        raise InvalidRequestError(f"'{name}' must be text, tokens as whole numbers, or a list of either.", param=name)


def _check_roles(messages: Any) -> None:
    if not isinstance(messages, list):
        return
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequestError(
                f"Message {number} must be an object, and is {_found(message)}.", param=f"messages.{number}"
            )
        role = message.get("role")
        if role is not None and role not in _ROLES:
            raise InvalidRequestError(
                f"The role of message {number} is {_found(role)}; it must be one of {', '.join(_ROLES)}.",
                param=f"messages.{number}.role",
            )


def _found(value: Any) -> str:
    """Describe a value in an error message: the value where it is short, else its type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return "a list" if isinstance(value, list) else "an object"


_SIGNED = _whole(-_INT64 - 1, _INT64)
_LOGPROBS = _whole(-1, _INT64)
_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "n": _whole(1, _INT64),
        "best_of": _whole(1, _INT64),
        "max_tokens": _whole(0, MOST_TOKENS),
        "max_completion_tokens": _whole(1, MOST_TOKENS),
        "max_output_tokens": _whole(1, MOST_TOKENS),
        "max_tool_calls": _whole(0, _INT64),
        "min_tokens": _whole(0, MOST_TOKENS),
        "top_k": _whole(-1, MOST_TOKENS),
        "top_logprobs": _whole(-1, _INT64),
        "seed": _SIGNED,
        "priority": _SIGNED,
        "truncate_prompt_tokens": _whole(-1, _INT64),
        "thinking_token_budget": _whole(-1, MOST_TOKENS),
        "stream_interval": _whole(1, MOST_TOKENS),
        "routed_experts_prompt_start": _whole(0, MOST_TOKENS),
        "dimensions": _whole(1, MOST_TOKENS),
        "temperature": _number,
        "top_p": _number,
        "min_p": _number,
        "frequency_penalty": _number,
        "presence_penalty": _number,
        "repetition_penalty": _number,
        "length_penalty": _number,
        "logit_bias": _numbers_by_key,
        "stop_token_ids": _whole_numbers,
        "allowed_token_ids": _whole_numbers,
        "logprob_token_ids": _whole_numbers,
        "tokens": _whole_numbers,
        "prompt": _prompt,
        "thinking": _parts({"budget_tokens": _whole(0, MOST_TOKENS)}),
        "repetition_detection": _parts(
            {name: _whole(0, MOST_TOKENS) for name in ("max_pattern_size", "min_pattern_size", "min_count")}
        ),
        "structured_outputs": _object,
        "vllm_xargs": _extras,
    }
)
