"""The effect probe's judgement: noise of the engine neither hides nor feigns an effect. The engine is in tests/e2e."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.engines.effect_probe import PROMPTS, Effect, largest_change, probe_effect


class Engine:
    """Answers as vLLM's completions do; log-probabilities move by `noise` at random and by `shift` for the adapter."""

    def __init__(self, shift: float, noise: float, *, quiet_after: int = 1000) -> None:
        self._shift = shift
        self._noise = noise
        self._random = random.Random(7)
        self._left = quiet_after

    async def complete(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self._left -= 1
        noise = self._noise if self._left >= 0 else 0.0
        shift = self._shift if body["model"] == "adapter" else 0.0

        def position() -> dict[str, float]:
            return {f"token_id:{n}": -1.0 - n + shift + self._random.uniform(-noise, noise) for n in range(5)}

        one = [{"index": i, "logprobs": {"top_logprobs": [position() for _ in range(4)]}} for i in range(len(PROMPTS))]
        return {"choices": one}


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [
        (0.5, 0.0, Effect.EFFECT),
        (1e-6, 0.0, Effect.EFFECT),
        (0.5, 0.01, Effect.EFFECT),
        (0.0, 0.0, Effect.NO_EFFECT),
        (0.0, 0.01, Effect.UNCLEAR),
        (0.001, 0.01, Effect.UNCLEAR),
    ],
)
async def test_the_verdict(shift: float, noise: float, verdict: Effect) -> None:
    result = await probe_effect(Engine(shift, noise).complete, "base", "adapter")
    assert result.verdict is verdict
    assert set(result.per_prompt) == set(PROMPTS)
    assert result.document()["verdict"] == verdict.value


async def test_a_quieter_moment_settles_what_noise_left_open() -> None:
    result = await probe_effect(Engine(1e-5, 0.01, quiet_after=3).complete, "base", "adapter")
    assert (result.verdict, result.rounds) == (Effect.EFFECT, 2)
    result = await probe_effect(Engine(0, 0.01, quiet_after=3).complete, "base", "adapter")
    assert (result.verdict, result.rounds) == (Effect.NO_EFFECT, 2)


async def test_a_base_without_completions_leaves_the_verdict_unclear() -> None:
    async def complete(_body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"detail": "Not Found"}

    result = await probe_effect(complete, "base", "adapter")
    assert (result.verdict, result.rounds) == (Effect.UNCLEAR, 0)


def test_positions_after_the_texts_part_are_not_compared() -> None:
    base = [{"a": -0.1, "b": -3.0}, {"x": -0.1, "y": -9.0}]
    other = [{"b": -0.2, "a": -0.3}, {"p": -0.1, "q": -0.2}]
    assert largest_change(base, other) == pytest.approx(2.8)


def test_a_token_that_fell_out_of_the_likeliest_counts_by_what_is_certain() -> None:
    assert largest_change([{"a": -0.1, "b": -2.0}], [{"c": -0.5, "b": -1.5}]) == pytest.approx(1.5)
