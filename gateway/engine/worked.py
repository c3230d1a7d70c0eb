"""What an engine counted for one request, by its own account."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import EngineFailedError
from gateway.usage import Usage


@dataclass(frozen=True, slots=True)
class Worked:
    """Tokens as clients are billed them, and how often the engine counted each prompt token; 0 tokens when the request
    never got as far as the engine's work.
    """

    usage: Usage
    choices: int

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Worked":
        """Read the plugin's answer; raises `EngineFailedError` while the request still runs."""
        if document["running"]:
            raise EngineFailedError("The engine has not ended this request yet.")
        prompts: dict[str, tuple[int, int]] = {}
        counted = generated = 0
        for prompt, prompt_tokens, cached_tokens, completion_tokens in document["parts"]:
            before = prompts.get(prompt, (0, 0))
            prompts[prompt] = max(before[0], prompt_tokens), max(before[1], cached_tokens)
            counted += prompt_tokens
            generated += completion_tokens
        prompt_tokens, cached_tokens = (sum(tokens[place] for tokens in prompts.values()) for place in (0, 1))
        choices = round(counted / prompt_tokens) if prompt_tokens else 1
        return cls(Usage(prompt_tokens, generated, cached_tokens), choices)
