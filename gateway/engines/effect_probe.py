"""The effect probe: does an adapter change the base's answers at all?

vLLM loads adapters whose tensors bind to nothing, and then serves the base under their name. A few prompts are answered
greedily by the base, the adapter and the base again; the two base runs show how far log-probabilities move by
themselves on this engine at this moment. Only log-probabilities of generated tokens are asked for: those of prompts end
the engine (docs/decisions/0006).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from uuid import uuid4

from gateway.errors import EngineFailedError

# Short, so that the prompts differ from any cached prefix; different in kind, so that a narrow adapter shows somewhere.
PROMPTS = (
    "The weather today is",
    '{"category": "',
    "Question: what is 2 + 3? Answer:",
    "def add(a, b):",
    "Dear customer,",
)
_TOKENS = 4
_ALTERNATIVES = 5
_ROUNDS = 4
_ABOVE_NOISE = 4.0

Complete = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
_Position = Mapping[str, float]


class Effect(StrEnum):
    """EFFECT: differs from the base by more than the base from itself. NO_EFFECT: equal to the base to the last digit,
    whenever the base was equal to itself. UNCLEAR: the engine's own noise hides it, which blames nobody.
    """

    EFFECT = "effect"
    NO_EFFECT = "no_effect"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The verdict with its evidence, in natural-log units: the largest change against the base, the largest change of
    the base against itself, and the change per prompt in the deciding round.
    """

    verdict: Effect
    largest_delta: float
    noise: float
    rounds: int
    per_prompt: Mapping[str, float]

    def document(self) -> dict[str, Any]:
        """As evidence to be stored with a version."""
        return asdict(self)


async def probe_effect(complete: Complete, base: str, adapter: str) -> ProbeResult:
    """Compare an adapter with the base by their engine names; raises what `complete` raises.

    A base that completes no texts, one for embeddings say, leaves the verdict UNCLEAR after no round.
    """
    result = ProbeResult(Effect.UNCLEAR, 0.0, 0.0, 0, {})
    for number in range(1, _ROUNDS + 1):
        before = await _answers(complete, base)
        if before is None:
            break
        changed, after = await _answers(complete, adapter), await _answers(complete, base)
        if changed is None or after is None:
            raise EngineFailedError(f"The engine answers the base's completions and not those of {adapter}.")
        noise = max(map(difference, before, after))
        deltas = [min(difference(changed[i], before[i]), difference(changed[i], after[i])) for i in range(len(PROMPTS))]
        verdict = _judge(max(deltas), noise)
        result = ProbeResult(verdict, max(deltas), noise, number, dict(zip(PROMPTS, deltas, strict=True)))
        if verdict is not Effect.UNCLEAR:
            break
    return result


def difference(one: Sequence[_Position], other: Sequence[_Position]) -> float:
    """The largest change of a log-probability, up to the first position at which the two texts part."""
    largest = 0.0
    for here, there in zip(one, other, strict=False):
        largest = max([largest, *_changes(here, there), *_changes(there, here)])
        if _first(here) != _first(there):
            break
    return largest


def _judge(delta: float, noise: float) -> Effect:
    if delta > _ABOVE_NOISE * noise:
        return Effect.EFFECT
    return Effect.NO_EFFECT if delta == noise == 0 else Effect.UNCLEAR


def _changes(here: _Position, there: _Position) -> list[float]:
    # What is not among the other's likeliest tokens is at most as likely as the last of them.
    floor = min(there.values())
    return [abs(p - there[token]) if token in there else max(0.0, p - floor) for token, p in here.items()]


def _first(position: _Position) -> str:
    return max(position, key=lambda token: position[token])


async def _answers(complete: Complete, model: str) -> list[list[_Position]] | None:
    answer = await complete(
        {
            "model": model,
            "prompt": list(PROMPTS),
            "max_tokens": _TOKENS,
            "temperature": 0,
            "logprobs": _ALTERNATIVES,
            "ignore_eos": True,
            "return_tokens_as_token_ids": True,
            "cache_salt": uuid4().hex,  # a cached prefix is computed in other shapes, and rounds differently
        }
    )
    if "choices" not in answer:
        return None
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"]["top_logprobs"] for choice in choices]
