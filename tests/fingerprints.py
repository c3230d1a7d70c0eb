"""Which weights answered? Told by log-probabilities: a status code and a name can be right over wrong weights."""

from collections.abc import Mapping

import httpx
import numpy as np

PROMPT = "The parcel with the desk lamp"
Fingerprint = Mapping[str, float]


def fingerprint(http: httpx.Client, model: str, *, prompt: str = PROMPT) -> Fingerprint:
    """How likely the engine finds the first words after the prompt."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0]["logprobs"]["top_logprobs"][0])


def distance(one: Fingerprint, other: Fingerprint) -> float:
    """How far two fingerprints are apart; tokens that only one has count as just below the other's least likely."""
    floor = min(*one.values(), *other.values()) - 1
    return float(np.mean([abs(one.get(token, floor) - other.get(token, floor)) for token in one.keys() | other.keys()]))


def closest(answer: Fingerprint, references: Mapping[str, Fingerprint]) -> str:
    """The name of the reference that an answer is most like."""
    return min(references, key=lambda name: distance(answer, references[name]))
