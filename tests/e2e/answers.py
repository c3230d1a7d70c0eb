"""Answers of the real engine with their log-probabilities, which tell whose weights answered."""

import json
from collections.abc import Mapping, Sequence

from tests.conftest import Served
from tests.e2e.inference_requests import ASK

# bfloat16 moves a log-probability of these versions by 0.065 on average from its value in fp32, two batches by a
# deviation of 0.115 from each other: the largest of 24 answers with 160 values each is about 0.45. Two versions lie 1.3
# apart on average, so their largest change is beyond that.
SAME, OTHER = 0.5, 1.0
TOKENS = 16

Answer = Sequence[Mapping[str, float]]
"""For each token the log-probabilities of the likeliest ones."""


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
