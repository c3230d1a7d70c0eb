"""What an engine says it has worked: vLLM's own Prometheus counters, as far as they count tokens."""

import re
from collections import defaultdict
from dataclasses import dataclass

_LINE = re.compile(
    r"^vllm:(prompt_tokens_total|prompt_tokens_cached_total|generation_tokens_total|prompt_tokens_created)"
    r"(?:\{[^\n]*\})? (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Counters:
    """Tokens since the engine began, over all its parts.

    `cached_tokens` are the part of `prompt_tokens` that was not computed again. `began` tells one run of an engine from
    every other: when its counters were made; empty for an engine that does not say.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    began: str

    @classmethod
    def parse(cls, text: str) -> "Counters | None":
        """Read Prometheus' text format; None when there are no such counters in it."""
        found: dict[str, list[float]] = defaultdict(list)
        for name, value in _LINE.findall(text):
            found[name].append(float(value))
        if "prompt_tokens_total" not in found or "generation_tokens_total" not in found:
            return None
        prompt, cached, completion = (
            round(sum(found[f"{name}_total"]))
            for name in ("prompt_tokens", "prompt_tokens_cached", "generation_tokens")
        )
        created = found["prompt_tokens_created"]
        return cls(prompt, cached, completion, f"{min(created):.6f}" if created else "")
