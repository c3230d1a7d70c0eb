"""Finding text by BM25: passages for a question, examples like a question."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.fingerprints import normalised, words


class Index:
    """An index over some texts, in memory; equal texts and queries always give equal results."""

    def __init__(self, texts: Sequence[str]) -> None:
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # tells each step otherwise
        import bm25s

        self._size = len(texts)
        self._bm25: Any = bm25s.BM25()
        self._bm25.index([_tokens(text) or [""] for text in texts], show_progress=False)

    def nearest(self, query: str, k: int) -> list[int]:
        """The numbers of the best texts, best first; of equally good ones the earlier."""
        scores = self._bm25.get_scores(_tokens(query) or [""])
        order = np.argsort(-np.asarray(scores), kind="stable")
        return [int(at) for at in order[: min(k, self._size)]]


@dataclass(frozen=True, slots=True)
class Passage:
    """One document that can be put before a question."""

    id: str
    text: str


def _tokens(text: str) -> list[str]:
    return words(normalised(text))
