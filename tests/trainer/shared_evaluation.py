"""Evaluate rows, pairs and ratings with every process of a launcher, and write down who computed what."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.data.schema import Example, Message, Pair
from trainer.training import preferences
from trainer.training.base import prepare_libraries
from trainer.training.distributed import DistributedState, distributed_state
from trainer.training.loss import SupervisedLoss, evaluate_loss
from trainer.training.loss_mask import RenderedExample, RenderedRating, Renderer
from trainer.training.model import TrainableModel, add_adapter, load_base
from trainer.training.recipe import Lora


class Rows(SupervisedLoss):
    """Notes the rows that it computes."""

    computed: list[int]

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        self.computed = [*getattr(self, "computed", []), *rows]
        return super().summed(rows, counts=counts)


class Noted:
    """Computes log-probabilities as the losses do, and notes the lines."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self._plain = preferences._logprobs

    def __call__(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
        self.lines += [row.line for row in rows]
        return self._plain(model, rows)


def conversation(line: int, answer: str) -> Example:
    return Example(line, (Message("user", f"Where is order {line}?"), Message("assistant", answer)))


def evaluate(base_model: Path, out: Path, distributed: DistributedState) -> None:
    prepare_libraries()
    renderer, cpu = Renderer.load(base_model), torch.device("cpu")
    model = add_adapter(load_base(base_model, cpu).float(), Lora(r=8, lora_dropout=0.0), cpu, seed=0)
    for parameter in model.trainable_parameters.values():
        parameter.data = parameter.data.float()
    better = [conversation(line, "It is late. " * line) for line in range(1, 10)]
    rendered = [renderer.render(one) for one in better]
    rows = Rows(model, rendered)
    size: dict[str, Any] = {"max_tokens": 256, "distributed": distributed}
    found: dict[str, Any] = {"loss": evaluate_loss(model, rows, **size), "rows": rows.computed}
    preferences._logprobs = noted = Noted()
    reference = preferences.Reference(256, distributed=distributed)
    pairs = [renderer.render_pair(Pair(one.line, one, conversation(one.line, "No idea."))) for one in better]
    by_pairs = preferences.DpoLoss(model, pairs, beta=0.1, reference=reference)
    found |= {"lines of pairs": noted.lines, "reference": by_pairs._reference.flatten().tolist()}
    ratings = [RenderedRating(one, at % 2 == 0, str(at), 1.0 + at) for at, one in enumerate(rendered)]
    by_ratings = preferences.KtoLoss(model, ratings, kto=preferences.KtoWeights(), reference=reference)
    torch.manual_seed(0)
    for name, parameter in model.trainable_parameters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    for name, objective in (("pairs", by_pairs), ("ratings", by_ratings)):
        found[name] = evaluate_loss(model, objective, **size)
        found[f"rewards of {name}"] = objective.rewards.take()
    out.write_text(json.dumps(found), encoding="utf-8")
    preferences._logprobs = noted._plain


if __name__ == "__main__":
    with distributed_state() as state:
        evaluate(Path(sys.argv[1]), Path(sys.argv[2]) / f"{state.rank}.json", state)
