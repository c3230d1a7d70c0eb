"""Calibration: design of the request batches to measure, and the least-squares fit of token weights to busy time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidRequestError

PS_PER_US = 10**6


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Shape of a batch's requests; `is_cached` ones repeat a prompt that the engine has just seen."""

    prompt_words: int
    output_tokens: int
    is_cached: bool

    @property
    def name(self) -> str:
        """Description for tables."""
        cached = ", cached" if self.is_cached else ""
        return f"{self.prompt_words} words{cached}, {self.output_tokens} tokens out"


@dataclass(frozen=True, slots=True)
class Batch:
    """A measured batch: tokens by the engine's own counters, and the engine's busy time."""

    uncached_tokens: int
    cached_tokens: int
    output_tokens: int
    busy_us: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted picoseconds of engine time per token, and the goodness of the fit."""

    prompt_ps: int
    cached_ps: int
    output_ps: int
    error_share: float
    """Root of the mean squared error over the mean busy time."""
    r_squared: float


def design(words: int, tokens: int) -> list[BatchShape]:
    """Return all combinations of long and short prompts, cached and not, with long and short answers."""
    lengths = (max(1, words // 8), words)
    outputs = (max(1, tokens // 8), tokens)
    return [BatchShape(w, t, cached) for w in lengths for t in outputs for cached in (False, True)]


def fit(batches: Sequence[Batch]) -> Fit:
    """Fit busy time to token counts by non-negative least squares.

    Raises `InvalidRequestError` when the batches do not vary enough to tell the kinds of tokens apart.
    """
    counts = np.array([[b.uncached_tokens, b.cached_tokens, b.output_tokens] for b in batches], dtype=float)
    busy = np.array([b.busy_us for b in batches], dtype=float)
    present = [column for column in range(3) if counts[:, column].any()]
    if len(batches) <= len(present) or np.linalg.matrix_rank(counts[:, present]) < len(present):
        raise InvalidRequestError(
            "These batches cannot tell the kinds of tokens apart; measure more, and other lengths."
        )
    weights = _non_negative(counts, busy, present)
    error = counts @ weights - busy
    spread = float(((busy - busy.mean()) ** 2).sum())
    prompt, cached, output = (round(float(weight) * PS_PER_US) for weight in weights)
    return Fit(
        prompt_ps=prompt,
        cached_ps=cached,
        output_ps=output,
        error_share=float(np.sqrt((error**2).mean()) / busy.mean()) if busy.mean() else 0.0,
        r_squared=1 - float((error**2).sum()) / spread if spread else 1.0,
    )


def _non_negative(counts: NDArray[Any], busy: NDArray[Any], columns: list[int]) -> NDArray[Any]:
    """Solve least squares over the columns, dropping the most negative weight until none is negative."""
    weights = np.zeros(counts.shape[1])
    left = list(columns)
    while left:
        found, *_ = np.linalg.lstsq(counts[:, left], busy, rcond=None)
        worst = int(found.argmin())
        if found[worst] >= 0:
            weights[left] = found
            break
        del left[worst]
    return weights
