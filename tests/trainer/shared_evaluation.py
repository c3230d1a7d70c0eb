"""Evaluate rows and pairs with every process of a launcher, and write down who computed what."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.data.schema import Example, Message, Pair
from trainer.training.base import prepare_libraries
from trainer.training.distributed import DistributedState, distributed_state
from trainer.training.loss import DpoLoss, SupervisedLoss, evaluate_loss
from trainer.training.loss_mask import Renderer
from trainer.training.model import add_adapter, load_base
from trainer.training.recipe import Lora


class Rows(SupervisedLoss):
    """Notes the rows that it computes."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.computed: list[int] = []

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        self.computed += rows
        return super().summed(rows)


class Pairs(DpoLoss):
    """Notes the pairs of the reference that it computes."""

    computed: list[int]

    def _margins(self, rows: Sequence[int]) -> torch.Tensor:
        self.computed = [*getattr(self, "computed", []), *rows]
        return super()._margins(rows)

    @property
    def reference(self) -> list[float]:
        return [float(margin) for margin in self._reference]


def conversation(line: int, answer: str) -> Example:
    return Example(line, (Message("user", f"Where is order {line}?"), Message("assistant", answer)))


def evaluate(base_model: Path, out: Path, distributed: DistributedState) -> None:
    prepare_libraries()
    renderer, cpu = Renderer.load(base_model), torch.device("cpu")
    model = add_adapter(load_base(base_model, cpu).float(), Lora(r=8, lora_dropout=0.0), cpu, seed=0)
    better = [conversation(line, "It is late. " * line) for line in range(1, 10)]
    pairs = [Pair(one.line, one, conversation(one.line, "No idea.")) for one in better]
    rows = Rows(model, [renderer.render(one) for one in better])
    loss = evaluate_loss(model, rows, max_tokens=256, distributed=distributed)
    rendered = [renderer.render_pair(pair) for pair in pairs]
    preferences = Pairs(model, rendered, beta=0.1, max_tokens=256, distributed=distributed)
    found = {"rows": rows.computed, "loss": loss, "pairs": preferences.computed, "reference": preferences.reference}
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    with distributed_state() as state:
        evaluate(Path(sys.argv[1]), Path(sys.argv[2]) / f"{state.rank}.json", state)
