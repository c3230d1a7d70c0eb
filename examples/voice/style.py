"""The style classifier of the task: naive Bayes over words, fitted to train.jsonl (the voice) and plain.jsonl (not)."""

import json
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
_SMOOTHING = 1.0


def on_brand(answer: str, expected: str, row: object) -> bool:
    """Whether an answer reads like the brand rather than like a plain service desk, neither empty nor a flood."""
    words = _words(answer)
    return 8 <= len(words) <= 60 and score(answer) > 0


def score(answer: str) -> float:
    """Return the mean log-odds per word that a text is in the brand's voice; above 0 it is."""
    weights = _weights()
    words = [word for word in _words(answer) if word in weights]
    return sum(weights[word] for word in words) / max(len(words), 1)


@cache
def _weights() -> dict[str, float]:
    voiced, plain = _counts("train"), _counts("plain")
    vocabulary = voiced.keys() | plain.keys()
    totals = [counts.total() + _SMOOTHING * len(vocabulary) for counts in (voiced, plain)]
    return {
        word: math.log((voiced[word] + _SMOOTHING) / totals[0]) - math.log((plain[word] + _SMOOTHING) / totals[1])
        for word in vocabulary
    }


def _counts(name: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        counts.update(_words(json.loads(line)["messages"][-1]["content"]))
    return counts


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
