"""Evaluate the trained weights on the base in bf16, as it is served, and record parity vectors.

Parity vectors are log-probabilities of some rows, token by token; the gateway compares them with those of its engine
before a version gets traffic. parity.json in a run's directory:

    {"format": 1, "dtype": "bfloat16", "rows": [
        {"row_id": "…", "line": 7,
         "input_ids": [1, 5, 9, …],        the rendered conversation, at most 512 tokens
         "positions": [4, 5, 6],           indexes of the loss tokens in input_ids
         "base":    [-2.31, …],            log p(input_ids[position] | all ids before it) of the base as it is served
         "adapter": [-0.12, …]}]}          the same with the adapter; absent after full fine-tuning, which makes a base

The base is in bf16 even when the adapter was trained over NF4.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from trainer.training.model import TrainableModel, add_adapter, in_bf16, load_base
from trainer.training.output_layer import decoder_of
from trainer.training.recipe import Recipe
from trainer.training.run_metadata import Bf16BaseEval

if TYPE_CHECKING:
    from trainer.training.loop import TrainedWeights


@dataclass(frozen=True)
class ParityVector:
    """The log-probabilities of one row; `adapter` is None after full fine-tuning."""

    row_id: str
    line: int
    input_ids: list[int]
    positions: list[int]
    base: list[float]
    adapter: list[float] | None


def evaluate_on_bf16_base(
    data: PreparedData, recipe: Recipe, trained: "TrainedWeights", model: TrainableModel
) -> tuple[Bf16BaseEval, list[ParityVector]]:
    """Return losses and parity vectors on the bf16 base; after qlora, that base is loaded for it.

    A model that computed in fp32 is rounded to bf16.
    """
    if recipe.method != "qlora":
        sharded = model.widened and trained.base_shards > 1
        served = _on_bf16(data, recipe, trained, model) if sharded else in_bf16(model)
        vectors = parity_vectors(served, data.answers)
        change = _mean_logprob_change(vectors)
        return Bf16BaseEval(trained.eval_loss_before, trained.eval_loss, change, None), vectors
    served = _on_bf16(data, recipe, trained, model)
    vectors = parity_vectors(served, data.answers)
    before = after = None
    if data.valid.rows:
        objective, max_tokens = SupervisedLoss(served, data.valid.rows), trained.max_tokens_per_batch
        after = evaluate_loss(served, objective, max_tokens=max_tokens)
        with served.without_adapter():
            before = evaluate_loss(served, objective, max_tokens=max_tokens)
    error = _quantization_error(data, model, vectors)
    return Bf16BaseEval(before, after, _mean_logprob_change(vectors), error), vectors


def parity_vectors(model: TrainableModel, rows: Sequence[RenderedExample]) -> list[ParityVector]:
    """Compute the vectors of the first rows that are short enough."""
    chosen = [row for row in rows if row.tokens <= MAX_TOKENS][:MAX_ROWS]
    has_adapter = bool(model.target_modules)
    vectors = []
    with without_dropout(model):
        for row in chosen:
            tuned = row_vector(model, row)
            base = tuned
            if has_adapter:
                with model.without_adapter():
                    base = row_vector(model, row)
            positions = [index for index, label in enumerate(row.labels) if label != IGNORE_INDEX]
            adapter = tuned if has_adapter else None
            vectors.append(ParityVector(row.row_id, row.line, row.input_ids, positions, base, adapter))
    return vectors


@torch.no_grad()
def row_vector(model: TrainableModel, row: RenderedExample) -> list[float]:
    """Compute the log-probability of each loss token of a row, to six digits."""
    packed = pack([row], model.device)
    logprobs = token_logprobs(model.hidden(packed), model.head, packed.targets)
    return [round(value, 6) for value in logprobs.tolist()]


def write_parity(folder: Path, vectors: Sequence[ParityVector]) -> None:
    """Write parity.json."""
    rows: list[dict[str, Any]] = [{k: v for k, v in asdict(vector).items() if v is not None} for vector in vectors]
    with disk(folder):
        document = {"format": 1, "dtype": "bfloat16", "rows": rows}
        (folder / PARITY_FILE).write_text(json.dumps(document) + "\n", encoding="utf-8")


def mean_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the mean absolute difference between two sets of log-probabilities."""
    differences = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(differences) / len(differences) if differences else 0.0


def _on_bf16(data: PreparedData, recipe: Recipe, trained: "TrainedWeights", model: TrainableModel) -> TrainableModel:
    from peft import set_peft_model_state_dict

    shards = trained.base_shards
    base = load_base(data.base.directory, model.device, shards=shards)
    served = add_adapter(base, recipe.lora, model.device, seed=recipe.seed, shards=shards)
    set_peft_model_state_dict(served.module, trained.tensors)
    base.set_attn_implementation(decoder_of(model.base).config._attn_implementation)
    return replace(served, layout=model.layout)


def _mean_logprob_change(vectors: list[ParityVector]) -> float | None:
    tuned = [vector for vector in vectors if vector.adapter is not None]
    if not tuned:
        return None
    return mean_difference([v.base for v in tuned], [v.adapter or [] for v in tuned])


def _quantization_error(data: PreparedData, model: TrainableModel, vectors: list[ParityVector]) -> float:
    rows = {row.row_id: row for row in data.answers}
    with without_dropout(model), model.without_adapter():
        in_nf4 = [row_vector(model, rows[vector.row_id]) for vector in vectors]
    return mean_difference(in_nf4, [vector.base for vector in vectors])
