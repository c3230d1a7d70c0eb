"""Model mix: which model gets the next request, by a popularity that is fixed or changes over the test.

uniform          equal shares, in shuffled rounds
weights:5,3,1    shares as given, in the order of --models
zipf:1.0         share of the i-th model is 1/i^s: a true power law
geometric:1.5    share of the i-th model is a^-i: some tools call it Zipf; the tail vanishes after about ten
drift:1.0:500    zipf, whose ranks shift by one model every 500 requests
churn:1.0:500:4  zipf over 4 of the models at a time; every 500 requests the oldest one leaves and another enters
"""

from collections.abc import Iterator, Sequence

import numpy as np

from loadtest.errors import InvalidWorkloadError
from loadtest.workload import Seed

DRAWS = 1024
"""Models drawn per call of the random generator."""


def model_sequence(text: str, models: Sequence[str], seed: Seed) -> Iterator[str]:
    """Yield the model of every request, without end; raises InvalidWorkloadError for an unknown form."""
    kind, _, rest = text.partition(":")
    rng = np.random.default_rng(seed)
    try:
        match kind, rest.split(":"):
            case "uniform", [""]:
                return _rounds(models, rng)
            case "weights", [weights]:
                return _fixed(models, _checked([float(weight) for weight in weights.split(",")], len(models)), rng)
            case "zipf", [exponent]:
                return _fixed(models, zipf_weights(len(models), float(exponent)), rng)
            case "geometric", [ratio]:
                return _fixed(models, _checked([float(ratio) ** -rank for rank in range(len(models))]), rng)
            case "drift", [exponent, every]:
                return _changing(models, len(models), float(exponent), _positive(every), rng)
            case "churn", [exponent, every, present]:
                return _changing(models, _positive(present, len(models)), float(exponent), _positive(every), rng)
    except (ValueError, OverflowError, ZeroDivisionError):
        pass
    forms = "uniform, weights:5,3,1, zipf:1.0, geometric:1.5, drift:1.0:500 or churn:1.0:500:4"
    raise InvalidWorkloadError(f"--popularity must be {forms} for {len(models)} models, not {text!r}.")


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Return shares proportional to rank^-exponent; raises ValueError for a negative exponent or NaN."""
    if not exponent >= 0:
        raise ValueError(exponent)
    return _checked([rank**-exponent for rank in range(1, count + 1)])


def _rounds(models: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    names = list(models)
    while True:
        rng.shuffle(names)
        yield from names


def _fixed(models: Sequence[str], weights: list[float], rng: np.random.Generator) -> Iterator[str]:
    names = list(models)
    while True:
        for place in rng.choice(len(names), DRAWS, p=weights).tolist():
            yield names[place]


def _changing(
    models: Sequence[str], present: int, exponent: float, every: int, rng: np.random.Generator
) -> Iterator[str]:
    weights = zipf_weights(present, exponent)

    def requests() -> Iterator[str]:
        shift = 0
        while True:
            names = [models[(shift + place) % len(models)] for place in range(present)]
            for place in rng.choice(present, every, p=weights).tolist():
                yield names[place]
            shift += 1

    return requests()


def _checked(weights: list[float], count: int | None = None) -> list[float]:
    total = sum(weights)
    if min(weights) < 0 or not 0 < total < float("inf") or (count or len(weights)) != len(weights):
        raise ValueError(weights)
    return [weight / total for weight in weights]


def _positive(text: str, most: int = 1_000_000) -> int:
    value = int(text)
    if not 1 <= value <= most:
        raise ValueError(text)
    return value
