"""The embedded base with an adapter that does something, and rows of very different lengths."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from trainer.data.schema import Example, Message
from trainer.training.base import prepare_libraries
from trainer.training.loss_mask import RenderedExample, Renderer
from trainer.training.model import TrainableModel, add_adapter, load_base
from trainer.training.recipe import Lora

CPU = torch.device("cpu")
MakeModel = Callable[..., TrainableModel]


@pytest.fixture(scope="session")
def renderer(base_model: Path) -> Renderer:
    prepare_libraries()
    return Renderer.load(base_model)


@pytest.fixture(scope="session")
def rows(renderer: Renderer) -> Sequence[RenderedExample]:
    """Nine conversations of 10 to 250 tokens, some with two answers."""
    made = []
    for number in range(9):
        turns = [Message("user", f"Where is order {number}?"), Message("assistant", "It is late. " * (1 + 6 * number))]
        if number % 3 == 0:
            turns += [Message("user", "Why?"), Message("assistant", f"Snow, {number} days of it.")]
        made.append(renderer.render(Example(number + 1, tuple(turns))))
    return made


@pytest.fixture
def make_model(base_model: Path) -> MakeModel:
    """Loads the base and puts an adapter on it whose B is not zero; `strength` 0 leaves it fresh."""

    def make(*, dropout: float = 0.0, strength: float = 0.05, dtype: torch.dtype = torch.float32) -> TrainableModel:
        base = load_base(base_model, CPU).to(dtype)
        made = add_adapter(base, Lora(r=8, lora_dropout=dropout), CPU, seed=0)
        made.module.to(dtype)
        with torch.no_grad():
            for name, parameter in made.trainable_parameters.items():
                if "lora_B" in name and strength:
                    torch.nn.init.normal_(parameter, std=strength)
        made.module.train()
        return made

    return make
