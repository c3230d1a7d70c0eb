"""What kind of body a request has: plain, or one of many that an engine may fail on whatever the model is.

Two bodies are of one kind when they ask for the same in everything but their texts: an engine that fails on one fails
on the other.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

_TEXTS = ("messages", "input", "prompt", "system", "instructions")
# What every application sends, and no engine fails on once the fields have been checked.
_PLAIN = frozenset(
    {
        *_TEXTS,
        *("model", "stream", "stream_options", "user", "safety_identifier", "metadata", "store", "prompt_cache_key"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "seed", "n", "logprobs"),
        *("frequency_penalty", "presence_penalty", "parallel_tool_calls", "service_tier", "cache_salt", "request_id"),
    }
)
_PLAIN_MESSAGE = frozenset({"role", "content"})


def body_kind(document: Mapping[str, Any]) -> bytes | None:
    """A digest of all but the texts of a body; None when there is nothing else in it."""
    extras = {name: value for name, value in document.items() if name not in _PLAIN and value is not None}
    shapes = sorted({shape for name in _TEXTS for shape in _shapes(document.get(name))})
    if not extras and not shapes:
        return None
    kind = orjson.dumps([extras, shapes], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(kind, digest_size=16).digest()


def _shapes(value: Any) -> Iterator[str]:
    """How the messages and parts within a text are built, where they are more than a role and a text."""
    left = [value] if isinstance(value, list) else []
    while left:
        for item in left.pop():
            if isinstance(item, dict):
                if not (item.keys() <= _PLAIN_MESSAGE and isinstance(item.get("content"), str)):
                    yield " ".join(sorted(f"{name}:{_word(name, inner)}" for name, inner in item.items()))
                left += [inner for inner in item.values() if isinstance(inner, list)]


def _word(name: str, value: Any) -> str:
    """A role or the type of a part as it is, of anything else what it is."""
    return str(value)[:40] if name in ("role", "type") else type(value).__name__
