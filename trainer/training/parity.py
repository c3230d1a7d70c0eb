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

The trained weights on the base as it is served: in bf16, also when they were trained over NF4.
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
from trainer.training.dataset import PreparedData
from trainer.training.loss import SupervisedLoss, evaluate_loss, token_logprobs, without_dropout
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample
from trainer.training.model import TrainableModel, add_adapter, load_base
from trainer.training.recipe import Recipe
from trainer.training.run_metadata import Bf16BaseEval

if TYPE_CHECKING:
    from trainer.training.model import TrainableModel
if TYPE_CHECKING:
    from trainer.training.loop import TrainedWeights


@dataclass(frozen=True)
class ParityVector:
    """One row's log-probabilities; `adapter` is None where there is no adapter."""

    row_id: str
    line: int
    input_ids: list[int]
    positions: list[int]
    base: list[float]
    adapter: list[float] | None


def parity_vectors(learner: "TrainableModel", rows: Sequence[RenderedExample]) -> list[ParityVector]:
    """The vectors of the first rows that are short enough."""
    chosen = [row for row in rows if row.tokens <= MAX_TOKENS][:MAX_ROWS]
    has_adapter = bool(learner.target_modules)
    vectors = []
    with without_dropout(learner):
        for row in chosen:
            tuned = row_vector(learner, row)
            base = tuned
            if has_adapter:
                with learner.without_adapter():
                    base = row_vector(learner, row)
            at = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX]
            vectors.append(ParityVector(row.row_id, row.line, row.input_ids, at, base, tuned if has_adapter else None))
    return vectors


@torch.no_grad()
def row_vector(learner: "TrainableModel", row: RenderedExample) -> list[float]:
    """The log-probability of each learnt token of a row, to six digits."""
    packed = pack([row], learner.device)
    logprobs = token_logprobs(learner.hidden(packed), learner.head, packed.targets)
    return [round(value, 6) for value in logprobs.tolist()]


def write_parity(folder: Path, vectors: Sequence[ParityVector]) -> None:
    """Write parity.json."""
    rows: list[dict[str, Any]] = [{k: v for k, v in asdict(vector).items() if v is not None} for vector in vectors]
    with disk(folder):
        document = {"format": 1, "dtype": "bfloat16", "rows": rows}
        (folder / PARITY_FILE).write_text(json.dumps(document) + "\n", encoding="utf-8")


def mean_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The mean absolute difference between two sets of log-probabilities."""
    differences = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(differences) / len(differences) if differences else 0.0


def evaluate_on_bf16_base(
    material: PreparedData, recipe: Recipe, trained: "TrainedWeights", learner: TrainableModel
) -> tuple[Bf16BaseEval, list[ParityVector]]:
    """Losses, effect and parity vectors of a run on the served base; after qlora that base is loaded for it."""
    if recipe.method != "qlora":
        vectors = parity_vectors(learner, material.answers)
        return Bf16BaseEval(trained.valid_loss_before, trained.valid_loss, _effect(vectors), None), vectors
    served = _on_bf16(material, recipe, trained, learner)
    vectors = parity_vectors(served, material.answers)
    before = after = None
    if material.valid.rows:
        rows, most = SupervisedLoss(served, material.valid.rows), trained.max_tokens_per_batch
        after = evaluate_loss(served, rows, max_tokens=most)
        with served.without_adapter():
            before = evaluate_loss(served, rows, max_tokens=most)
    return Bf16BaseEval(before, after, _effect(vectors), _drift(material, learner, vectors)), vectors


def _on_bf16(
    material: PreparedData, recipe: Recipe, trained: "TrainedWeights", learner: TrainableModel
) -> TrainableModel:
    from peft import set_peft_model_state_dict

    parts = trained.base_parts
    base = load_base(material.base.directory, learner.device, parts=parts)
    served = add_adapter(base, recipe.lora, learner.device, seed=recipe.seed, parts=parts)
    set_peft_model_state_dict(served.model, trained.tensors)
    return served


def _effect(vectors: list[ParityVector]) -> float | None:
    tuned = [vector for vector in vectors if vector.adapter is not None]
    if not tuned:
        return None
    return mean_difference([v.base for v in tuned], [v.adapter or [] for v in tuned])


def _drift(material: PreparedData, learner: TrainableModel, vectors: list[ParityVector]) -> float:
    rows = {row.row_id: row for row in material.answers}
    with without_dropout(learner), learner.without_adapter():
        in_nf4 = [row_vector(learner, rows[vector.row_id]) for vector in vectors]
    return mean_difference(in_nf4, [vector.base for vector in vectors])
