"""Parity vectors: what the trained weights say about some rows, token by token, for comparing with a server.

parity.json in a run's directory:

    {"format": 1, "dtype": "bfloat16", "rows": [
        {"row_id": "…", "line": 7,
         "input_ids": [1, 5, 9, …],        the whole conversation as rendered, at most 512 tokens
         "positions": [4, 5, 6],           indexes into input_ids of the learnt tokens
         "base":    [-2.31, …],            log p(input_ids[position] | all ids before it) of the base as it is served
         "adapter": [-0.12, …]}]}          the same with the adapter; absent after full fine-tuning, whose base this is

The base is always computed in bf16, as it is served, also when the adapter was trained over NF4. The
gateway compares them with what its engine says before the version takes traffic.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapters.manifest import PARITY_FILE
from adapters.parity_file import MAX_ROWS, MAX_TOKENS
from trainer.files import disk
from trainer.training.batching import pack
from trainer.training.loss import token_logprobs
from trainer.training.loss_mask import IGNORED, Rendered
from trainer.training.objectives import evaluating

if TYPE_CHECKING:
    from trainer.training.model import TrainableModel


@dataclass(frozen=True)
class Vector:
    """One row's log-probabilities; `adapter` is None where there is no adapter."""

    row_id: str
    line: int
    input_ids: list[int]
    positions: list[int]
    base: list[float]
    adapter: list[float] | None


def parity_vectors(learner: "TrainableModel", rows: Sequence[Rendered]) -> list[Vector]:
    """The vectors of the first rows that are short enough."""
    chosen = [row for row in rows if row.tokens <= MAX_TOKENS][:MAX_ROWS]
    has_adapter = bool(learner.target_modules)
    vectors = []
    with evaluating(learner):
        for row in chosen:
            tuned = row_vector(learner, row)
            base = tuned
            if has_adapter:
                with learner.without_adapter():
                    base = row_vector(learner, row)
            at = [i for i, label in enumerate(row.labels) if label != IGNORED]
            vectors.append(Vector(row.row_id, row.line, row.input_ids, at, base, tuned if has_adapter else None))
    return vectors


@torch.no_grad()
def row_vector(learner: "TrainableModel", row: Rendered) -> list[float]:
    """The log-probability of each learnt token of a row, to six digits."""
    packed = pack([row], learner.device)
    logprobs = token_logprobs(learner.hidden(packed), learner.head, packed.targets)
    return [round(value, 6) for value in logprobs.tolist()]


def write_parity(folder: Path, vectors: Sequence[Vector]) -> None:
    """Write parity.json."""
    rows: list[dict[str, Any]] = [{k: v for k, v in asdict(vector).items() if v is not None} for vector in vectors]
    with disk(folder):
        document = {"format": 1, "dtype": "bfloat16", "rows": rows}
        (folder / PARITY_FILE).write_text(json.dumps(document) + "\n", encoding="utf-8")


def mean_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The mean absolute difference between two sets of log-probabilities."""
    differences = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(differences) / len(differences) if differences else 0.0
