"""Watching a run from inside: records every logged step, feeds the progress display, keeps the best epoch's weights."""

import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.curves import StepMetrics
from trainer.progress import TrainingProgress


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Collects `metrics` in the order they were logged and the trainable weights at the lowest held-out loss."""

    def __init__(self, progress: TrainingProgress) -> None:
        self.metrics: list[StepMetrics] = []
        self.best_epoch: float | None = None
        self.steps_s = 0.0
        self._progress = progress
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None
        self._step_began = 0.0
        self._tokens = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps_s += time.perf_counter() - self._step_began

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        self._tokens = int(logs.get("num_tokens", self._tokens))
        if "loss" in logs:
            self._record(state, loss=logs["loss"], learning_rate=logs["learning_rate"])
            tokens_per_s = self._tokens / self.steps_s if self.steps_s else 0.0
            self._progress.step(state.global_step, state.max_steps, loss=logs["loss"], tokens_per_s=tokens_per_s)
        if "eval_loss" in logs:
            self._record(state, eval_loss=logs["eval_loss"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        model: torch.nn.Module,
        **kwargs: Any,
    ) -> None:
        epoch, loss = state.epoch or 0.0, metrics["eval_loss"]
        self._progress.epoch(epoch, loss)
        if state.global_step and (self._best is None or loss < self._best[0]):
            self.best_epoch = epoch
            self._best = (loss, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})

    def restore_best(self, model: torch.nn.Module) -> None:
        """Put the weights of the best epoch back; without held-out rows the last ones stay."""
        if self._best is not None:
            weights = self._best[1]
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in weights:
                        parameter.copy_(weights[name])

    def _record(
        self,
        state: TrainerState,
        *,
        loss: float | None = None,
        eval_loss: float | None = None,
        learning_rate: float | None = None,
    ) -> None:
        self.metrics.append(
            StepMetrics(state.global_step, round(state.epoch or 0.0, 4), loss, eval_loss, learning_rate, self._tokens)
        )
