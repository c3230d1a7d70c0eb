"""Memory: the estimate is near what is really kept, and running out says or does what helps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import BaseModel
from tests.trainer.training.conftest import MakeModel
from trainer.errors import OutOfMemoryError
from trainer.training.loop import TrainingLoop
from trainer.training.loss import SupervisedLoss
from trainer.training.loss_mask import RenderedExample
from trainer.training.memory import estimate, fitting_tokens, refuse_oversized
from trainer.training.metrics_log import NoMetrics
from trainer.training.recipe import Recipe

pytestmark = pytest.mark.numeric


def recipe(method: str = "lora", lora: dict[str, Any] | None = None, **training: Any) -> Recipe:
    shape = {} if method == "full" else {"lora": {"r": 8, **(lora or {})}}
    document = {"name": "x", "train": "x", "method": method, "training": training, "directory": Path()}
    return Recipe.model_validate({**document, **shape})


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_the_estimated_activations_are_near_what_the_backward_pass_keeps(
    base_model: Path, rows: Sequence[RenderedExample], make_model: MakeModel, dropout: float
) -> None:
    one = make_model(dropout=dropout, dtype=torch.bfloat16)
    weights = {p.untyped_storage().data_ptr() for p in one.module.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        alive.append(SupervisedLoss(one, rows).summed(range(len(rows))))
    tokens = sum(row.tokens for row in rows)
    expected = estimate(BaseModel.read(base_model), recipe(lora={"lora_dropout": dropout}), tokens).activations
    assert 0.85 <= expected / sum(kept.values()) <= 1.2, (expected, sum(kept.values()))


@pytest.mark.parametrize(
    ("method", "training", "said"),
    [
        ("lora", {}, "set training.max_tokens_per_batch = "),
        ("full", {"max_tokens_per_batch": 64, "per_device_train_batch_size": 1}, "gradient_checkpointing = true"),
        ("full", {"max_tokens_per_batch": 64, "gradient_checkpointing": True}, 'set method = "lora"'),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_the_setting_to_lower(
    base_model: Path, method: str, training: dict[str, Any], said: str
) -> None:
    base, wanted = BaseModel.read(base_model), recipe(method, **training)
    fixed = estimate(base, wanted, 0).total
    free = fixed + 100 * estimate(base, wanted, 1).activations if method == "lora" else fixed
    with pytest.raises(OutOfMemoryError, match=said):
        refuse_oversized(base, wanted, 90 if method == "lora" else 900, free)
    if method == "lora":
        assert fitting_tokens(base, wanted, 90, free) == 100
    refuse_oversized(base, wanted, 90, 1 << 40)


def test_of_a_split_base_each_process_holds_a_part_and_two_layers_that_are_computed(base_model: Path) -> None:
    base, layers = BaseModel.read(base_model), json.loads((base_model / "config.json").read_bytes())
    whole, split = (estimate(base, recipe(), 64, parts) for parts in (1, 4))
    inside = 2 * sum(out * size for name, (out, size) in base.modules.items() if ".layers." in name)
    expected = inside / 4 + 2 * inside / layers["num_hidden_layers"] + whole.weights - inside
    assert split.weights == pytest.approx(expected, abs=1)
    assert (split.trainable, split.activations) == (whole.trainable, whole.activations)
    full, full_split = (estimate(base, recipe("full"), 64, parts).trainable for parts in (1, 4))
    assert full - full_split == pytest.approx(11 * inside * 3 / 4, abs=22)
    small = recipe("qlora", max_tokens_per_batch=64, gradient_checkpointing=True)
    with pytest.raises(OutOfMemoryError, match="launch more processes, each with a GPU of its own"):
        refuse_oversized(base, small, 64, split.weights, 4)


class Crowded(SupervisedLoss):
    """Runs out of memory, as a GPU does, when more than `room` tokens come at once."""

    room = 600

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        if sum(self.lengths[row] for row in rows) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().summed(rows, counts=counts)


def test_running_out_of_memory_says_what_to_set(make_model: MakeModel, rows: Sequence[RenderedExample]) -> None:
    one = make_model()
    loop = TrainingLoop(recipe(num_train_epochs=1), one, Crowded(one, rows), None, NoMetrics())
    with pytest.raises(OutOfMemoryError, match=r"set training.max_tokens_per_batch = \d+, or pass --auto-batch"):
        loop.run()


def test_auto_batch_goes_on_with_less_at_once_and_learns_the_same(
    make_model: MakeModel, rows: Sequence[RenderedExample]
) -> None:
    weights = []
    for kind in (SupervisedLoss, Crowded):
        one = make_model()
        loop = TrainingLoop(recipe(num_train_epochs=1), one, kind(one, rows), None, NoMetrics(), auto_batch=True)
        state = loop.run()
        weights.append(torch.cat([p.detach().flatten() for p in one.trainable_parameters.values()]))
    assert state.max_tokens <= Crowded.room
    assert torch.allclose(*weights, atol=2e-4)  # type: ignore[misc, arg-type]


def test_a_step_in_four_pieces_is_a_step_in_one(make_model: MakeModel, rows: Sequence[RenderedExample]) -> None:
    weights = []
    for sizes in ((8, 1), (2, 4)):
        one = make_model()
        shape: dict[str, Any] = {"per_device_train_batch_size": sizes[0], "gradient_accumulation_steps": sizes[1]}
        TrainingLoop(recipe(num_train_epochs=1, **shape), one, SupervisedLoss(one, rows), None, NoMetrics()).run()
        weights.append(torch.cat([p.detach().flatten() for p in one.trainable_parameters.values()]))
    assert torch.allclose(weights[0], weights[1], atol=2e-4)
