"""The trained weights on the base as it is served: in bf16, also when they were trained over NF4."""

from typing import TYPE_CHECKING

from trainer.training.model import TrainableModel, add_adapter, load_base
from trainer.training.objectives import Supervised, evaluating, mean_loss
from trainer.training.parity import Vector, mean_difference, parity_vectors, row_vector
from trainer.training.prepare import PreparedData
from trainer.training.recipe import Recipe
from trainer.training.run_metadata import OnServedBase

if TYPE_CHECKING:
    from trainer.training.fit import Trained


def evaluate_on_bf16_base(
    material: PreparedData, recipe: Recipe, trained: "Trained", learner: TrainableModel
) -> tuple[OnServedBase, list[Vector]]:
    """Losses, effect and parity vectors of a run on the served base; after qlora that base is loaded for it."""
    if recipe.method != "qlora":
        vectors = parity_vectors(learner, material.answers)
        return OnServedBase(trained.valid_loss_before, trained.valid_loss, _effect(vectors), None), vectors
    served = _on_bf16(material, recipe, trained, learner)
    vectors = parity_vectors(served, material.answers)
    before = after = None
    if material.valid.rows:
        rows, most = Supervised(served, material.valid.rows), trained.max_tokens_per_batch
        after = mean_loss(served, rows, max_tokens=most)
        with served.without_adapter():
            before = mean_loss(served, rows, max_tokens=most)
    return OnServedBase(before, after, _effect(vectors), _drift(material, learner, vectors)), vectors


def _on_bf16(material: PreparedData, recipe: Recipe, trained: "Trained", learner: TrainableModel) -> TrainableModel:
    from peft import set_peft_model_state_dict

    parts = trained.base_parts
    base = load_base(material.base.directory, learner.device, parts=parts)
    served = add_adapter(base, recipe.lora, learner.device, seed=recipe.seed, parts=parts)
    set_peft_model_state_dict(served.model, trained.tensors)
    return served


def _effect(vectors: list[Vector]) -> float | None:
    tuned = [vector for vector in vectors if vector.adapter is not None]
    if not tuned:
        return None
    return mean_difference([v.base for v in tuned], [v.adapter or [] for v in tuned])


def _drift(material: PreparedData, learner: TrainableModel, vectors: list[Vector]) -> float:
    rows = {row.row_id: row for row in material.answers}
    with evaluating(learner), learner.without_adapter():
        in_nf4 = [row_vector(learner, rows[vector.row_id]) for vector in vectors]
    return mean_difference(in_nf4, [vector.base for vector in vectors])
