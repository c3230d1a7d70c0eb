from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console

from trainer.progress import TrainingProgress
from trainer.recorder import Recorder


def evaluated(recorder: Recorder, model: torch.nn.Module, step: int, loss: float) -> None:
    state: Any = SimpleNamespace(global_step=step, epoch=float(step), max_steps=9)
    nothing: Any = None
    recorder.on_evaluate(nothing, state, nothing, metrics={"eval_loss": loss}, model=model)


def test_the_weights_of_the_lowest_held_out_loss_are_put_back() -> None:
    model = torch.nn.Linear(2, 2)
    recorder = Recorder(TrainingProgress(Console(quiet=True)))
    for step, loss in ((0, 0.1), (1, 3.0), (2, 1.0), (3, 2.0)):
        torch.nn.init.constant_(model.weight, float(step))
        evaluated(recorder, model, step, loss)
    recorder.restore_best(model)
    assert recorder.best_epoch == 2.0, "the loss before training is no candidate"
    assert model.weight.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_without_held_out_rows_the_last_weights_stay() -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, 7.0)
    Recorder(TrainingProgress(Console(quiet=True))).restore_best(model)
    assert model.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]
