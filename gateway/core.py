"""Usage: the tokens of one request, as the engine counted them, and how well they are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MOST_TOKENS = (1 << 31) - 1
"""More than any request can take, and little enough for sums of them to fit a database."""


_NO_COUNT = ""


class UsageSource(StrEnum):
    """Where token counts come from: the engine's final count, its last running count, our own estimate, or nowhere."""

    EXACT = "exact"
    LAST_CONTINUOUS = "last_continuous"
    ESTIMATED = "estimated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `prompt_tokens` includes `cached_tokens`, as in OpenAI's usage object."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_sound: bool = field(default=True, compare=False)
    """False when a count was no count (negative, text, a fraction, beyond `MOST_TOKENS`, more cached than there is)
    and stands at the nearest that it can have meant: none, or all that was cached.
    """

    @property
    def evidence(self) -> UsageSource:
        """How well the engine's final count is known."""
        if self.is_sound:
            return UsageSource.EXACT
        return UsageSource.ESTIMATED if self.prompt_tokens or self.completion_tokens else UsageSource.NONE

    @classmethod
    def from_openai(cls, usage: object) -> "Usage":
        """Read OpenAI's usage object; absent details count as zero, an absent prompt is no count."""
        return cls._read(usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details")

    @classmethod
    def from_responses(cls, usage: object) -> "Usage":
        """Read the usage object of the Responses API."""
        return cls._read(usage, "input_tokens", "output_tokens", "input_tokens_details")

    @classmethod
    def from_anthropic(cls, usage: object) -> "Usage":
        """Read Anthropic's usage object, whose `input_tokens` leaves cached tokens out."""
        if not isinstance(usage, Mapping):
            return cls(is_sound=False)
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        (prompt, completion, cached, created), is_sound = _counts(*(usage.get(name) for name in names))
        return cls(prompt + cached + created, completion, cached, is_sound)

    @classmethod
    def _read(cls, usage: object, prompt: str, completion: str, details: str) -> "Usage":
        if not isinstance(usage, Mapping):
            return cls(is_sound=False)
        found = usage.get(details)
        cached = found.get("cached_tokens") if isinstance(found, Mapping) else found and _NO_COUNT
        counts, is_sound = _counts(usage.get(prompt), usage.get(completion), cached)
        prompt_tokens, completion_tokens, cached_tokens = counts
        is_sound = is_sound and usage.get(prompt) is not None and cached_tokens <= prompt_tokens
        return cls(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens), is_sound)


def _counts(*values: Any) -> tuple[list[int], bool]:
    """Each value as a count of tokens, and whether all of them are one; what is absent is zero."""
    counts = [_count(value) for value in values]
    return counts, all(value is None or (type(value) is int and 0 <= value <= MOST_TOKENS) for value in values)


def _count(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0
