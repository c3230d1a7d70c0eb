"""Usage: the tokens of one request, as the engine counted them, and how well they are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Evidence(StrEnum):
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

    @classmethod
    def from_openai(cls, usage: Mapping[str, Any]) -> "Usage":
        """Read OpenAI's usage object; absent details count as zero."""
        return cls._read(usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details")

    @classmethod
    def from_responses(cls, usage: Mapping[str, Any]) -> "Usage":
        """Read the usage object of the Responses API."""
        return cls._read(usage, "input_tokens", "output_tokens", "input_tokens_details")

    @classmethod
    def from_anthropic(cls, usage: Mapping[str, Any]) -> "Usage":
        """Read Anthropic's usage object, whose `input_tokens` leaves cached tokens out."""
        cached = int(usage.get("cache_read_input_tokens") or 0)
        created = int(usage.get("cache_creation_input_tokens") or 0)
        prompt = int(usage.get("input_tokens") or 0) + cached + created
        return cls(prompt, int(usage.get("output_tokens") or 0), cached)

    @classmethod
    def _read(cls, usage: Mapping[str, Any], prompt: str, completion: str, details: str) -> "Usage":
        cached = (usage.get(details) or {}).get("cached_tokens")
        return cls(int(usage.get(prompt) or 0), int(usage.get(completion) or 0), int(cached or 0))
