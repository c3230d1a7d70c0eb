"""Parity: does the engine say about an adapter's held-out tokens what the trainer said, for base and adapter?

The trainer leaves log-probabilities of conversations (parity.json). Here the engine is asked for the same ones: each is
an ordinary completion of one token whose prompt is everything before it and whose only allowed token is the learnt
one, because log-probabilities of prompts end the engine beside other requests (docs/decisions/0006).

The verdict of parity: what the differences between trainer and engine mean, and which factors decide it.

The factors were set from good adapters and from broken ones on a real engine: docs/decisions/0014 has both.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from adapters.parity_file import ParityRow
from gateway.engines.effect_probe import Complete
from gateway.errors import EngineFailedError

_ANOTHER_BASE = 0.25
_ABOVE_NOISE, _FLOOR = 2.0, 0.01
_WEAKEST, _STRONGEST, _ERRORS = 0.7, 1.3, 3.0
_ALIKE = 0.9


class Parity(StrEnum):
    """PASS: as in training, within the engine's noise. NO_EFFECT: what the engine serves is the base, or an adapter
    too weak to be told from it. DRIFT: neither.
    """

    PASS = "pass"  # noqa: S105 - a verdict
    NO_EFFECT = "no_effect"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The verdict, what to tell, and the evidence, in natural-log units over `tokens` learnt tokens.

    Differences are those between trainer and engine; effects those between adapter and base, on either side; `ratio` is
    the slope of the engine's effect over the trainer's, `correlation` how alike they are.
    """

    verdict: Parity
    sentence: str
    tokens: int
    base_difference_mean: float
    base_difference_p99: float
    adapter_difference_mean: float
    adapter_difference_p99: float
    effect_in_training: float
    effect_in_engine: float
    ratio: float
    correlation: float

    def document(self) -> dict[str, Any]:
        """As evidence to be stored with a version."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def judge(
    base: Sequence[float], adapter: Sequence[float], served_base: Sequence[float], served_adapter: Sequence[float]
) -> ParityResult:
    """The verdict over log-probabilities of the same tokens: trainer's base and adapter, engine's base and adapter."""
    noise, difference = _apart(base, served_base), _apart(adapter, served_adapter)
    effect = [tuned - plain for tuned, plain in zip(adapter, base, strict=True)]
    served = [tuned - plain for tuned, plain in zip(served_adapter, served_base, strict=True)]
    product = sum(one * other for one, other in zip(effect, served, strict=True))
    trained, in_engine, noise_rms = _rms(effect), _rms(served), _rms(noise)
    ratio = product / (len(effect) * trained**2) if trained else 0.0
    correlation = product / (len(effect) * trained * in_engine) if trained and in_engine else 0.0
    error = math.sqrt(2 / len(effect)) * noise_rms / trained if trained else 0.0
    is_near = _mean(difference) <= _ABOVE_NOISE * _mean(noise) + _FLOOR
    is_as_strong = _WEAKEST - _ERRORS * error <= ratio <= _STRONGEST + _ERRORS * error
    if _mean(noise) > _ANOTHER_BASE:
        verdict, sentence = Parity.DRIFT, _other_base(_mean(noise))
    elif trained <= _ABOVE_NOISE * noise_rms:
        verdict, sentence = Parity.NO_EFFECT, _too_weak(trained, noise_rms)
    elif in_engine <= _ABOVE_NOISE * noise_rms and not is_near:
        verdict, sentence = Parity.NO_EFFECT, _not_applied(trained, in_engine)
    elif is_near and is_as_strong:
        verdict, sentence = Parity.PASS, ""
    else:
        verdict, sentence = Parity.DRIFT, _otherwise(_mean(difference), _mean(noise), ratio, correlation)
    return ParityResult(
        verdict=verdict,
        sentence=sentence,
        tokens=len(effect),
        base_difference_mean=_mean(noise),
        base_difference_p99=_p99(noise),
        adapter_difference_mean=_mean(difference),
        adapter_difference_p99=_p99(difference),
        effect_in_training=_mean([abs(change) for change in effect]),
        effect_in_engine=_mean([abs(change) for change in served]),
        ratio=ratio,
        correlation=correlation,
    )


def _other_base(noise: float) -> str:
    return (
        f"The engine's base itself differs from the one it was trained on by {noise:.3g} per token: serve that base, "
        "or train on the one that is served."
    )


def _too_weak(trained: float, noise: float) -> str:
    return (
        f"In training the adapter changes log-probabilities by {trained:.2g}, which the engine's own noise of "
        f"{noise:.2g} hides: training changed almost nothing; train longer or with a higher learning rate."
    )


def _not_applied(trained: float, in_engine: float) -> str:
    return (
        f"The engine answers as the base: the adapter changes log-probabilities by {in_engine:.2g} where it changed "
        f"them by {trained:.2g} in training; its tensors are not those that were trained, or bind to nothing."
    )


def _otherwise(difference: float, noise: float, ratio: float, correlation: float) -> str:
    cause = "its tensors are not those that were trained, or belong to another base"
    if correlation >= _ALIKE:
        cause = f"it acts {ratio:.2f} times as strongly; restore lora_alpha, r, use_rslora and tensors as they were"
    return (
        f"With the adapter the engine's log-probabilities differ from training's by {difference:.3g} per token, those "
        f"of the base by {noise:.3g}: {cause}."
    )


def _apart(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


_MOST_TOKENS = 128
_PROMPTS_PER_REQUEST = 16
_REQUESTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Token:
    prompt: Sequence[int]
    learnt: int
    base: float
    adapter: float


async def measure_parity(complete: Complete, base: str, adapter: str, rows: Sequence[ParityRow]) -> ParityResult | None:
    """Compare engine and trainer by the engine's names of base and adapter; raises what `complete` raises.

    None when there is nothing to compare: no learnt token, or a base that completes no texts.
    """
    tokens = _spread(rows)
    said_of_base = await _ask(complete, base, tokens) if tokens else None
    if said_of_base is None:
        return None
    if not any(said_of_base):
        raise EngineFailedError(
            "The engine reports log-probabilities after its sampling rules; start it with --logprobs-mode raw_logprobs."
        )
    said_of_adapter = await _ask(complete, adapter, tokens)
    if said_of_adapter is None:
        raise EngineFailedError(f"The engine answers the base's completions and not those of {adapter}.")
    return judge([t.base for t in tokens], [t.adapter for t in tokens], said_of_base, said_of_adapter)


def _spread(rows: Sequence[ParityRow]) -> list[_Token]:
    """At most `_MOST_TOKENS` learnt tokens, evenly over all rows."""
    tokens = [
        _Token(row.input_ids[:position], row.input_ids[position], base, adapter)
        for row in rows
        for position, base, adapter in zip(row.positions, row.base, row.adapter, strict=True)
    ]
    step = max(1.0, len(tokens) / _MOST_TOKENS)
    return [tokens[int(number * step)] for number in range(min(len(tokens), _MOST_TOKENS))]


async def _ask(complete: Complete, model: str, tokens: Sequence[_Token]) -> list[float] | None:
    """The engine's log-probability of each token; None when the model completes no texts."""
    said, gate = dict[int, float](), asyncio.Semaphore(_REQUESTS_AT_ONCE)
    numbers: dict[int, list[int]] = {}
    for number, token in enumerate(tokens):
        numbers.setdefault(token.learnt, []).append(number)

    async def ask(learnt: int, some: Sequence[int]) -> bool:
        body = {
            "model": model,
            "prompt": [tokens[number].prompt for number in some],
            "allowed_token_ids": [learnt],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "ignore_eos": True,
        }
        async with gate:
            answer = await complete(body)
        for choice in answer.get("choices", ()):
            said[some[choice["index"]]] = choice["logprobs"]["token_logprobs"][0]
        return "choices" in answer

    batches = [
        (learnt, of_token[start : start + _PROMPTS_PER_REQUEST])
        for learnt, of_token in numbers.items()
        for start in range(0, len(of_token), _PROMPTS_PER_REQUEST)
    ]
    if not all(await asyncio.gather(*(ask(learnt, some) for learnt, some in batches))):
        return None
    return [said[number] for number in range(len(tokens))]
