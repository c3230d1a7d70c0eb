"""Parity check: compare the engine's log-probabilities with the trainer's, for the base and for an adapter.

The trainer stores log-probabilities of held-out conversations in parity.json. The engine is asked for the same ones by
completions of one token: the prompt is everything before the token, and that token is the only one allowed. Prompt
log-probabilities are not used, because they crash the engine beside other requests (docs/decisions/0006). The
thresholds were set from good and broken adapters on a real engine (docs/decisions/0014).
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

_MAX_TOKENS = 128
_PROMPTS_PER_REQUEST = 16
_CONCURRENT_REQUESTS = 2
_OTHER_BASE = 0.25
"""Mean difference of the base's log-probabilities from which on the engine serves another base."""
_NOISE_FACTOR, _NOISE_FLOOR = 2.0, 0.01
_MIN_RATIO, _MAX_RATIO, _RATIO_ERRORS = 0.7, 1.3, 3.0
_MIN_CORRELATION = 0.9


class Parity(StrEnum):
    """PASS: as in training, within the engine's noise. NO_EFFECT: the engine serves the base, or an adapter too weak to
    be distinguished from it. DRIFT: neither.
    """

    PASS = "pass"  # noqa: S105 - a verdict
    NO_EFFECT = "no_effect"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class ParityResult:
    """Verdict, its reason as a sentence ("" for PASS), and the evidence over `tokens` loss tokens, in nats.

    A difference is between engine and trainer, an effect between adapter and base. `ratio` is the slope of the engine's
    effect over the trainer's, `correlation` their correlation about zero.
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
        """Return the result as JSON evidence of a version, rounded."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class _LossToken:
    """A loss token with the tokens before it and the trainer's log-probabilities of it."""

    prompt: Sequence[int]
    token_id: int
    base: float
    adapter: float


async def measure_parity(complete: Complete, base: str, adapter: str, rows: Sequence[ParityRow]) -> ParityResult | None:
    """Compare engine and trainer on `rows`; `base` and `adapter` are the engine's model names.

    Returns None when there is nothing to compare: no loss token, or a base that serves no completions. Raises
    `EngineFailedError` and the errors of `complete`.
    """
    tokens = _sample(rows)
    served_base = await _log_probabilities(complete, base, tokens) if tokens else None
    if served_base is None:
        return None
    if not any(served_base):
        raise EngineFailedError(
            "The engine reports log-probabilities after its sampling rules; start it with --logprobs-mode raw_logprobs."
        )
    served_adapter = await _log_probabilities(complete, adapter, tokens)
    if served_adapter is None:
        raise EngineFailedError(f"The engine serves completions of the base model but not of {adapter}.")
    return evaluate_parity([t.base for t in tokens], [t.adapter for t in tokens], served_base, served_adapter)


def evaluate_parity(
    base: Sequence[float], adapter: Sequence[float], served_base: Sequence[float], served_adapter: Sequence[float]
) -> ParityResult:
    """Judge log-probabilities of the same tokens: `base` and `adapter` are the trainer's, the others the engine's."""
    noise, difference = _differences(base, served_base), _differences(adapter, served_adapter)
    effect = [tuned - plain for tuned, plain in zip(adapter, base, strict=True)]
    served = [tuned - plain for tuned, plain in zip(served_adapter, served_base, strict=True)]
    product = sum(a * b for a, b in zip(effect, served, strict=True))
    trained, in_engine, noise_rms = _rms(effect), _rms(served), _rms(noise)
    ratio = product / (len(effect) * trained**2) if trained else 0.0
    correlation = product / (len(effect) * trained * in_engine) if trained and in_engine else 0.0
    error = math.sqrt(2 / len(effect)) * noise_rms / trained if trained else 0.0
    is_near = _mean(difference) <= _NOISE_FACTOR * _mean(noise) + _NOISE_FLOOR
    is_as_strong = _MIN_RATIO - _RATIO_ERRORS * error <= ratio <= _MAX_RATIO + _RATIO_ERRORS * error
    if _mean(noise) > _OTHER_BASE:
        verdict, sentence = Parity.DRIFT, _other_base_sentence(_mean(noise))
    elif trained <= _NOISE_FACTOR * noise_rms:
        verdict, sentence = Parity.NO_EFFECT, _too_weak_sentence(trained, noise_rms)
    elif in_engine <= _NOISE_FACTOR * noise_rms and not is_near:
        verdict, sentence = Parity.NO_EFFECT, _not_applied_sentence(trained, in_engine)
    elif is_near and is_as_strong:
        verdict, sentence = Parity.PASS, ""
    else:
        verdict, sentence = Parity.DRIFT, _drift_sentence(_mean(difference), _mean(noise), ratio, correlation)
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


def _sample(rows: Sequence[ParityRow]) -> list[_LossToken]:
    """Return at most `_MAX_TOKENS` loss tokens, evenly spaced over all rows."""
    tokens = [
        _LossToken(row.input_ids[:position], row.input_ids[position], base, adapter)
        for row in rows
        for position, base, adapter in zip(row.positions, row.base, row.adapter, strict=True)
    ]
    step = max(1.0, len(tokens) / _MAX_TOKENS)
    return [tokens[int(number * step)] for number in range(min(len(tokens), _MAX_TOKENS))]


async def _log_probabilities(complete: Complete, model: str, tokens: Sequence[_LossToken]) -> list[float] | None:
    """Return the engine's log-probability of each token; None when the model serves no completions."""
    found, limit = dict[int, float](), asyncio.Semaphore(_CONCURRENT_REQUESTS)
    positions_of: dict[int, list[int]] = {}
    for position, token in enumerate(tokens):
        positions_of.setdefault(token.token_id, []).append(position)

    async def complete_batch(token_id: int, positions: Sequence[int]) -> bool:
        body = {
            "model": model,
            "prompt": [tokens[position].prompt for position in positions],
            "allowed_token_ids": [token_id],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 0,
            "ignore_eos": True,
        }
        async with limit:
            answer = await complete(body)
        for choice in answer.get("choices", ()):
            found[positions[choice["index"]]] = choice["logprobs"]["token_logprobs"][0]
        return "choices" in answer

    batches = [
        (token_id, positions[start : start + _PROMPTS_PER_REQUEST])
        for token_id, positions in positions_of.items()
        for start in range(0, len(positions), _PROMPTS_PER_REQUEST)
    ]
    if not all(await asyncio.gather(*(complete_batch(token_id, positions) for token_id, positions in batches))):
        return None
    return [found[position] for position in range(len(tokens))]


def _other_base_sentence(noise: float) -> str:
    return (
        f"The engine's base itself differs from the base of the training by {noise:.3g} per token: serve the base that "
        "the adapter was trained on, or train on the base that is served."
    )


def _too_weak_sentence(trained: float, noise: float) -> str:
    return (
        f"In training the adapter changes log-probabilities by {trained:.2g}, too little to detect beside the "
        f"engine's own noise of {noise:.2g}: training changed almost nothing; train longer or raise the learning rate."
    )


def _not_applied_sentence(trained: float, in_engine: float) -> str:
    return (
        f"The engine answers as the base: the adapter changes log-probabilities by {in_engine:.2g}, in training by "
        f"{trained:.2g}; its tensors are not those that were trained, or match no module."
    )


def _drift_sentence(difference: float, noise: float, ratio: float, correlation: float) -> str:
    cause = "its tensors are not those that were trained, or belong to another base"
    if correlation >= _MIN_CORRELATION:
        cause = f"it acts {ratio:.2f} times as strongly; restore lora_alpha, r, use_rslora and tensors as they were"
    return (
        f"With the adapter the engine's log-probabilities differ from training's by {difference:.3g} per token, those "
        f"of the base by {noise:.3g}: {cause}."
    )


def _differences(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(left, right, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]
