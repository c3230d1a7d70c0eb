"""Evaluate the trained weights on the base in bf16, as it is served, and record parity vectors.

Parity vectors are log-probabilities of some rows, token by token; the gateway compares them with those of its engine
before a version gets traffic. parity.json in a run's directory:

    {"format": 1, "dtype": "bfloat16", "rows": [
        {"row_id": "…", "line": 7,
         "input_ids": [1, 5, 9, …],        the rendered conversation, at most 512 tokens
         "positions": [4, 5, 6],           indexes of the loss tokens in input_ids
         "base":    [-2.31, …],            log p(input_ids[position] | all ids before it) of the base as it is served
         "adapter": [-0.12, …]}]}          the same with the adapter; absent after full fine-tuning, which makes a base

The base is in bf16 even when the adapter was trained over NF4. The NF4 base is freed before the bf16 base is loaded, so
that memory never holds both. Where memory is too small for it, the figures and the file are left out, and the run is
finished all the same.
"""

import gc
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from adapters.manifest import PARITY_FILE
from adapters.parity_file import MAX_ROWS, MAX_TOKENS
from trainer.files import disk
from trainer.training.batching import pack
from trainer.training.dataset import PreparedData
from trainer.training.distributed import DistributedState
from trainer.training.initial_adapter import load_initial_weights
from trainer.training.loss import SupervisedLoss, evaluate_loss, token_logprobs, without_dropout
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample
from trainer.training.memory import evaluation_bytes, free_bytes, out_of_memory, too_large_for_evaluation
from trainer.training.model import TrainableModel, add_adapter, in_bf16, load_base, local_device
from trainer.training.recipe import Recipe
from trainer.training.run_metadata import Bf16BaseEval

if TYPE_CHECKING:
    from trainer.training.loop import TrainedWeights


_NOT_MEASURED = (
    "The adapter is trained and saved; training.json has no figures on the bf16 base, and without parity.json the "
    "gateway does not compare log-probabilities."
)


@dataclass(frozen=True)
class AfterTraining:
    """The model that was trained, rounded to bf16; None where its base, in NF4 or sharded in fp32, is read again.

    `quantized` has `base_logprobs` of an NF4 base. Nothing else may refer to a model that is None here, so that its
    memory is free.
    """

    model: TrainableModel | None
    quantized: list[list[float]]

    @classmethod
    def of(cls, model: TrainableModel, data: PreparedData, trained: "TrainedWeights") -> Self:
        """Take what an evaluation on the bf16 base needs of a trained model."""
        if data.recipe.method == "qlora":
            return cls(None, base_logprobs(model, data.answers))
        return cls(None if model.widened and trained.base_shards > 1 else in_bf16(model), [])


@dataclass(frozen=True)
class ParityVector:
    """The log-probabilities of one row; `adapter` is None after full fine-tuning."""

    row_id: str
    line: int
    input_ids: list[int]
    positions: list[int]
    base: list[float]
    adapter: list[float] | None


def base_logprobs(model: TrainableModel, rows: Sequence[RenderedExample]) -> list[list[float]]:
    """Compute the log-probabilities of the rows of the vectors by the base that the model was trained on."""
    with without_dropout(model), model.without_adapter():
        return [row_vector(model, row) for row in _chosen(rows)]


def evaluate_if_it_fits(
    data: PreparedData,
    recipe: Recipe,
    trained: "TrainedWeights",
    after: AfterTraining,
    distributed: DistributedState,
    say: Callable[[str], None],
) -> tuple[Bf16BaseEval, list[ParityVector]]:
    """Return losses and parity vectors on the bf16 base; nothing, and a sentence, where memory is too small."""
    nothing = Bf16BaseEval(None, None, None, None), list[ParityVector]()
    if after.model is None:
        _free_unused()
        longest = max(row.tokens for row in (*data.train.rows, *data.valid.rows))
        needed = evaluation_bytes(data.base_model, recipe, longest, distributed.base_shards)
        free = int(distributed.min(free_bytes())) if distributed.fsdp else free_bytes()
        if needed > free:
            say(f"{too_large_for_evaluation(needed, free)} {_NOT_MEASURED}")
            return nothing
    try:
        return _evaluate(data, recipe, trained, after, distributed)
    except (MemoryError, RuntimeError, OSError) as error:
        # Every rank makes the passes of the others with FSDP, so none can leave alone.
        if distributed.fsdp or not out_of_memory(error):
            raise
    say(f"memory ran out while the adapter was evaluated on the bf16 base. {_NOT_MEASURED}")
    return nothing


def _evaluate(
    data: PreparedData, recipe: Recipe, trained: "TrainedWeights", after: AfterTraining, distributed: DistributedState
) -> tuple[Bf16BaseEval, list[ParityVector]]:
    served = after.model or _on_bf16(data, recipe, trained, local_device(distributed.local_rank))
    vectors = parity_vectors(served, data.answers)
    change = _mean_logprob_change(vectors)
    if recipe.method != "qlora":
        return Bf16BaseEval(trained.eval_loss_before, trained.eval_loss, change, None), vectors
    before = tuned = None
    if data.valid.rows:
        shared = distributed if distributed.fsdp else DistributedState()  # without FSDP, rank 0 is alone here
        objective = SupervisedLoss(served, data.valid.rows)
        options: dict[str, Any] = {"max_tokens": trained.max_tokens_per_batch, "distributed": shared}
        tuned = evaluate_loss(served, objective, **options)
        if data.initial is not None:
            load_initial_weights(served, data.initial, trained.checkpoint_prefix)
        with served.without_adapter() if data.initial is None else nullcontext():
            before = evaluate_loss(served, objective, **options)
    error = mean_difference(after.quantized, [vector.base for vector in vectors])
    return Bf16BaseEval(before, tuned, change, error), vectors


def parity_vectors(model: TrainableModel, rows: Sequence[RenderedExample]) -> list[ParityVector]:
    """Compute the vectors of the first rows that are short enough."""
    has_adapter = bool(model.target_modules)
    vectors = []
    with without_dropout(model):
        for row in _chosen(rows):
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
    """Write parity.json, if there are vectors."""
    if not vectors:
        return
    rows: list[dict[str, Any]] = [{k: v for k, v in asdict(vector).items() if v is not None} for vector in vectors]
    with disk(folder):
        document = {"format": 1, "dtype": "bfloat16", "rows": rows}
        (folder / PARITY_FILE).write_text(json.dumps(document) + "\n", encoding="utf-8")


def mean_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the mean absolute difference between two sets of log-probabilities."""
    differences = [abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(differences) / len(differences) if differences else 0.0


def _chosen(rows: Sequence[RenderedExample]) -> list[RenderedExample]:
    return [row for row in rows if row.tokens <= MAX_TOKENS][:MAX_ROWS]


def _free_unused() -> None:
    """Give the memory of models that nothing refers to back to the machine; PEFT's models refer to themselves."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _on_bf16(data: PreparedData, recipe: Recipe, trained: "TrainedWeights", device: torch.device) -> TrainableModel:
    from peft import set_peft_model_state_dict

    shards, check = trained.base_shards, trained.self_check
    base = load_base(data.base.directory, device, shards=shards)
    served = add_adapter(base, recipe.lora, device, seed=recipe.seed, shards=shards)
    set_peft_model_state_dict(served.module, trained.tensors)
    base.set_attn_implementation(check.attention)
    return replace(served, layout=check.layout)


def _mean_logprob_change(vectors: list[ParityVector]) -> float | None:
    tuned = [vector for vector in vectors if vector.adapter is not None]
    if not tuned:
        return None
    return mean_difference([v.base for v in tuned], [v.adapter or [] for v in tuned])
