"""What differences between trainer and engine mean: good adapters pass under noise, broken ones do not."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.parity import Parity, ParityResult, evaluate_parity

Change = Callable[[float, float], float]


def judged(
    served: Change, *, seed: int = 0, noise: float = 0.01, effect: float = 1.0, tokens: int = 128
) -> ParityResult:
    """A trainer's and an engine's values; `served` makes the engine's from the trainer's base and adapter."""
    dice = random.Random(seed)

    def off(values: Sequence[float]) -> list[float]:
        return [value + dice.gauss(0, noise) for value in values]

    base = [-dice.expovariate(0.3) for _ in range(tokens)]
    adapter = [value + dice.gauss(effect / 2, effect) for value in base]
    return evaluate_parity(base, adapter, off(base), off([served(b, a) for b, a in zip(base, adapter, strict=True)]))


@given(
    st.integers(0, 10**6), st.sampled_from([0.001, 0.01, 0.05]), st.sampled_from([0.2, 1.0, 4.0]), st.integers(24, 128)
)
def test_an_adapter_that_is_served_as_trained_passes_whatever_the_noise(
    seed: int, noise: float, effect: float, tokens: int
) -> None:
    result = judged(lambda _base, adapter: adapter, seed=seed, noise=noise, effect=effect, tokens=tokens)
    assert result.verdict is Parity.PASS, result
    assert result.sentence == ""


@pytest.mark.parametrize(
    ("served", "verdict", "said"),
    [
        (lambda b, a: b + 2 * (a - b), Parity.DRIFT, "it acts 2.0"),
        (lambda b, a: b + (a - b) / 2, Parity.DRIFT, "it acts 0.5"),
        (lambda b, a: 2 * b - a, Parity.DRIFT, "not those that were trained"),
        (lambda b, _a: b, Parity.NO_EFFECT, "answers as the base"),
    ],
)
def test_an_adapter_that_is_served_differently_is_explained(served: Change, verdict: Parity, said: str) -> None:
    result = judged(served)
    assert (result.verdict, said in result.sentence) == (verdict, True), result


def test_a_base_unlike_the_trainers_is_named_before_the_adapter_is_blamed() -> None:
    result = judged(lambda _base, adapter: adapter, noise=0.5, effect=4.0)
    assert result.verdict is Parity.DRIFT
    assert "The engine's base itself differs" in result.sentence


@pytest.mark.parametrize("effect", [0.0, 0.005])
def test_an_adapter_weaker_than_the_noise_has_no_effect(effect: float) -> None:
    result = judged(lambda _base, adapter: adapter, effect=effect)
    assert result.verdict is Parity.NO_EFFECT
    assert "training changed almost nothing" in result.sentence
