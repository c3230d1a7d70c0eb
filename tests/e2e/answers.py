"""Answers of the real engine with their log-probabilities, which tell whose weights answered."""

import json
from collections.abc import Mapping, Sequence

from gateway.engines.effect_probe import largest_change
from tests.conftest import Served
from tests.e2e.inference_requests import ASK

DISTINCT = 0.6
"""Largest change by which two versions can be told apart. Measured on the engine: from batch to batch, bf16 moves an
answer of one version by 0.5 at most; two versions of the tests lie 0.7 or further apart.
"""
TOKENS = 16

Answer = Sequence[Mapping[str, float]]
"""For each token the log-probabilities of the likeliest ones."""


def nearest(answer: Answer, references: Mapping[str, Answer]) -> str:
    """Return the name of the reference that an answer is closest to: the weights that gave it."""
    return min(references, key=lambda name: largest_change(answer, references[name]))


def ask(served: Served, model: str) -> tuple[str, Answer]:
    """One streamed answer: the version that the header names, and the log-probabilities."""
    body = {"model": model, "messages": ASK, "temperature": 0, "max_tokens": TOKENS, "stream": True}
    positions: list[dict[str, float]] = []
    with served.http.stream(
        "POST", "/v1/chat/completions", json=body | {"logprobs": True, "top_logprobs": 5, "ignore_eos": True}
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            assert chunk["model"] == model
            for choice in chunk["choices"]:
                tokens = (choice.get("logprobs") or {}).get("content") or ()
                positions += [{one["token"]: one["logprob"] for one in token["top_logprobs"]} for token in tokens]
        return answer.headers.get("x-turntable-adapter", "base"), positions
