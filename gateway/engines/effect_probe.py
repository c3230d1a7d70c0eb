"""Effect probe: test whether an adapter changes the base model's answers at all.

vLLM loads adapters whose tensors match no module, and then serves the base under their name. The probe completes a few
prompts greedily with the base, the adapter and the base again; the two base runs measure the noise of log-probabilities
on this engine. It asks for log-probabilities of generated tokens only: those of prompts crash the engine
(docs/decisions/0006).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from uuid import uuid4

from gateway.errors import EngineFailedError

# Short, so that no prefix of them is cached; varied, so that an adapter for one task changes at least one answer.
PROMPTS = (
    "The weather today is",
    '{"category": "',
    "Question: what is 2 + 3? Answer:",
    "def add(a, b):",
    "Dear customer,",
)
_TOKENS = 4
_TOP_LOGPROBS = 5
_MAX_ROUNDS = 4
_NOISE_FACTOR = 4.0
"""Multiple of the noise from which on a change is an effect."""

Complete = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends the body of a completions request and returns the answer."""
_TopLogprobs = Mapping[str, float]
"""Log-probabilities of the most likely tokens at one position."""


class Effect(StrEnum):
    """EFFECT: the adapter differs from the base by more than two runs of the base do. NO_EFFECT: all three are equal to
    the last digit. UNCLEAR: the engine's noise hides any effect; the version is not refused for it.
    """

    EFFECT = "effect"
    NO_EFFECT = "no_effect"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Verdict with its evidence in nats: the largest change from the base, the noise (the largest change between two
    runs of the base), and the change per prompt in the last round.
    """

    verdict: Effect
    largest_delta: float
    noise: float
    rounds: int
    per_prompt: Mapping[str, float]

    def document(self) -> dict[str, Any]:
        """Return the result as JSON evidence of a version."""
        return asdict(self)


async def probe_effect(complete: Complete, base: str, adapter: str) -> ProbeResult:
    """Compare an adapter with the base; both are given by the engine's model names.

    A base that serves no completions, such as an embedding model, is UNCLEAR after 0 rounds. Raises `EngineFailedError`
    and the errors of `complete`.
    """
    result = ProbeResult(Effect.UNCLEAR, 0.0, 0.0, 0, {})
    for number in range(1, _MAX_ROUNDS + 1):
        before = await _complete_prompts(complete, base)
        if before is None:
            break
        tuned, after = await _complete_prompts(complete, adapter), await _complete_prompts(complete, base)
        if tuned is None or after is None:
            raise EngineFailedError(f"The engine serves completions of the base model but not of {adapter}.")
        noise = max(map(largest_change, before, after))
        deltas = [
            min(largest_change(tuned[i], before[i]), largest_change(tuned[i], after[i])) for i in range(len(PROMPTS))
        ]
        verdict = _judge(max(deltas), noise)
        result = ProbeResult(verdict, max(deltas), noise, number, dict(zip(PROMPTS, deltas, strict=True)))
        if verdict is not Effect.UNCLEAR:
            break
    return result


def largest_change(left: Sequence[_TopLogprobs], right: Sequence[_TopLogprobs]) -> float:
    """Return the largest change of a log-probability, up to the first position at which the two texts differ."""
    largest = 0.0
    for a, b in zip(left, right, strict=False):
        largest = max([largest, *_changes(a, b), *_changes(b, a)])
        if _most_likely(a) != _most_likely(b):
            break
    return largest


def _judge(delta: float, noise: float) -> Effect:
    if delta > _NOISE_FACTOR * noise:
        return Effect.EFFECT
    return Effect.NO_EFFECT if delta == noise == 0 else Effect.UNCLEAR


def _changes(a: _TopLogprobs, b: _TopLogprobs) -> list[float]:
    # A token that is missing in `b` is at most as likely as the least likely token there.
    floor = min(b.values())
    return [abs(p - b[token]) if token in b else max(0.0, p - floor) for token, p in a.items()]


def _most_likely(top: _TopLogprobs) -> str:
    return max(top, key=lambda token: top[token])


async def _complete_prompts(complete: Complete, model: str) -> list[list[_TopLogprobs]] | None:
    """Return the log-probabilities of the answer to each prompt; None when the model serves no completions."""
    answer = await complete(
        {
            "model": model,
            "prompt": list(PROMPTS),
            "max_tokens": _TOKENS,
            "temperature": 0,
            "logprobs": _TOP_LOGPROBS,
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
            "cache_salt": uuid4().hex,  # a cached prefix is computed in other shapes and rounds differently
        }
    )
    if "choices" not in answer:
        return None
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"]["top_logprobs"] for choice in choices]
