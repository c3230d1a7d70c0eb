"""One run of the optimisation, from rendered rows to weights: what every method shares.

The training loop: steps, held-out loss after every epoch, early stopping, checkpoints, and a clean way out.

Interrupted anywhere and continued from its checkpoint, a run takes the same steps with the same numbers.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from trainer.errors import Interrupted, OutOfMemoryError
from trainer.training.batching import epoch_batches, micro_batches, rank_shard
from trainer.training.checkpoint import Checkpoints, LoopState
from trainer.training.dataset import PreparedData
from trainer.training.distributed import DistributedState, full_tensor, is_sharded, local_tensor
from trainer.training.loss import DpoLoss, Objective, SupervisedLoss, evaluate_loss
from trainer.training.model import TrainableModel, device_of_this_process, set_up
from trainer.training.optimizer import MasterWeightsAdamW, learning_rate_factor, step_seed
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Weights = dict[str, torch.Tensor]
_LEAST_TOKENS = 64


class MetricsListener(Protocol):
    """Whoever watches a run."""

    def began(self, state: LoopState, steps: int) -> None:
        """The run starts or continues at `state`."""
        ...

    def stepped(self, state: LoopState, *, epoch: float, loss: float, learning_rate: float, grad_norm: float) -> None:
        """A step was taken."""
        ...

    def evaluated(self, state: LoopState, *, epoch: int, loss: float) -> None:
        """The held-out loss was taken; epoch 0 is before training."""
        ...


@dataclass
class TrainingLoop:
    """One run of a learner over its rows. `auto_batch` halves `max_tokens_per_batch` when memory runs out."""

    recipe: Recipe
    learner: TrainableModel
    train: Objective
    valid: Objective | None
    watcher: MetricsListener
    checkpoints: Checkpoints | None = None
    processes: DistributedState = field(default_factory=DistributedState)
    stop_requested: Callable[[], bool] = lambda: False
    auto_batch: bool = False
    state: LoopState = field(default_factory=LoopState)
    best: Weights | None = None

    def __post_init__(self) -> None:
        training = self.recipe.training
        self.masters = MasterWeightsAdamW(self.learner.learnt_parameters, self.processes)
        self._rows_per_step = training.effective_batch_size * self.processes.count
        self._epoch_steps = -(-len(self.train.lengths) // self._rows_per_step)
        self.steps = self._epoch_steps * training.num_train_epochs
        self._shortest = min(range(len(self.train.lengths)), key=self.train.lengths.__getitem__)
        self._save_every = max(1, self.steps // 10)
        self.state.max_tokens = training.max_tokens_per_batch

    def run(self) -> LoopState:
        """Train to the end and leave the best weights in the model; raises `Interrupted`, `RunError`."""
        self._continue()
        self.learner.model.train()
        self.watcher.began(self.state, self.steps)
        if self.valid is not None and not self.state.losses:
            self._evaluate(0)
        for epoch in range(self.recipe.training.num_train_epochs):
            self._epoch(epoch)
            if self.valid is not None:
                if len(self.state.losses or ()) <= epoch + 1:
                    self._evaluate(epoch + 1)
                if self._got_worse(epoch + 1):
                    break
        if self.best is not None:
            self.masters.restore(self.best)
        return self.state

    def _continue(self) -> None:
        if self.checkpoints is None or (found := self.checkpoints.load()) is None:
            return
        self.state, self.best = found.state, found.best and self.masters.own_snapshot(found.best)
        self.masters.load_state(found.optimiser)

    def _epoch(self, epoch: int) -> None:
        rows_of = epoch_batches(len(self.train.lengths), self._rows_per_step, seed=self.recipe.seed, epoch=epoch)
        for number, rows in enumerate(rows_of, start=epoch * self._epoch_steps + 1):
            if number <= self.state.step:
                continue
            self._step(number, rows)
            if self.processes.sum(float(self.stop_requested())):
                self._save()
                raise Interrupted(self.state.step, self.steps)
            if number % self._save_every == 0 and number < self.steps:
                self._save()

    def _step(self, number: int, rows: Sequence[int]) -> None:
        began = time.perf_counter()
        training = self.recipe.training
        mine = rank_shard(rows, self.train.lengths, rank=self.processes.rank, processes=self.processes.count)
        weight = sum(self.train.weights[row] for row in rows)
        loss = self.processes.sum(self._forward_and_back(number, mine)) / weight
        self.processes.sum_gradients(self.masters.gradients())
        learning_rate = training.learning_rate * learning_rate_factor(
            number, self.steps, kind=training.lr_scheduler_type, warmup_fraction=training.warmup_fraction
        )
        norm = self.masters.step(learning_rate, weight)
        state = self.state
        state.step = number
        state.input_tokens += sum(self.train.lengths[row] for row in rows)
        state.loss_sum += loss
        state.steps_s += time.perf_counter() - began
        epoch = number / self._epoch_steps
        self.watcher.stepped(state, epoch=epoch, loss=loss, learning_rate=learning_rate, grad_norm=norm)

    def _forward_and_back(self, number: int, rows: Sequence[int]) -> float:
        while True:
            try:
                return self._pieces(number, rows)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve_or_refuse(rows, error)

    def _pieces(self, number: int, rows: Sequence[int]) -> float:
        torch.manual_seed(step_seed(self.recipe.seed, number, self.processes.rank))
        total = torch.zeros((), device=self.learner.device)
        most = self.recipe.training.per_device_train_batch_size
        batches = list(micro_batches(rows, self.train.lengths, max_rows=most, max_tokens=self.state.max_tokens))
        passes = len(batches)
        if self.processes.splits_base:  # each needs the others' parts of the layers, as often as any of them computes
            passes = int(self.processes.most(passes))
        for piece in batches:
            total += self._pass(self.train.summed(piece))
        for _ in range(passes - len(batches)):
            self._pass(self.train.summed([self._shortest]) * 0.0)
        return float(total)

    def _pass(self, loss: torch.Tensor) -> torch.Tensor:
        loss.backward()  # type: ignore[no-untyped-call]
        self.masters.collect()
        return loss.detach()

    def _halve_or_refuse(self, rows: Sequence[int], error: Exception) -> None:
        longest = max(self.train.lengths[row] for row in rows)
        used = min(self.state.max_tokens, sum(self.train.lengths[row] for row in rows))
        less = max(_LEAST_TOKENS, used // 2)
        alone = not self.processes.splits_base  # those that hold a part each must all take as many passes
        if not self.auto_batch or not alone or used <= longest or less == used:
            checkpointing = self.recipe.training.gradient_checkpointing
            raise OutOfMemoryError.during_a_step(used, longest, checkpointing=checkpointing) from error
        self.state.max_tokens = less
        self.masters.discard()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _evaluate(self, epoch: int) -> None:
        assert self.valid is not None, "asked only with held-out rows"
        loss = evaluate_loss(self.learner, self.valid, max_tokens=self.state.max_tokens)
        self.state.losses = [*(self.state.losses or []), loss]
        if epoch and loss == min(self.state.losses[1:]):
            self.state.best_epoch, self.best = epoch, self.masters.snapshot()
        self.watcher.evaluated(self.state, epoch=epoch, loss=loss)

    def _got_worse(self, epoch: int) -> bool:
        patience = self.recipe.training.early_stopping_patience
        return patience > 0 and epoch - (self.state.best_epoch or 0) >= patience

    def _save(self) -> None:
        if self.checkpoints is None or not (self.processes.is_first or self.processes.splits_base):
            return
        optimiser, best = self.masters.state(), self.best and self.masters.whole_snapshot(self.best)
        if self.processes.is_first:
            self.checkpoints.save(self.state, optimiser, best)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class TrainedWeights:
    """The outcome of a run: what was learnt, in bf16 on the CPU, and how it went.

    `tensors` are LoRA matrices under PEFT's names, or all weights of the base for full fine-tuning. `base_parts` is
    over how many processes the layers of the base were split, `arithmetic` a fingerprint of how this processor rounds.
    Losses are means over learnt tokens, or over pairs for dpo; those of held-out rows are None without such rows.
    """

    tensors: dict[str, torch.Tensor]
    target_modules: tuple[str, ...]
    steps: int
    epochs: int
    input_tokens: int
    steps_s: float
    train_loss: float
    valid_loss_before: float | None
    valid_loss: float | None
    best_epoch: int | None
    trainable_parameters: int
    max_tokens_per_batch: int
    device: str
    threads: int
    processes: int
    base_parts: int
    arithmetic: str


@dataclass(frozen=True)
class FitConfig:
    """How a run runs, which changes nothing about what it learns."""

    checkpoints: Checkpoints | None = None
    processes: DistributedState = DistributedState()  # noqa: RUF009 - frozen
    stop_requested: Callable[[], bool] = lambda: False
    auto_batch: bool = False


def fit(
    material: PreparedData, recipe: Recipe, base: "PreTrainedModel", watcher: MetricsListener, conditions: FitConfig
) -> tuple[TrainableModel, TrainedWeights]:
    """Train what the recipe says on the loaded base; raises `Interrupted`, `RunError`."""
    processes = conditions.processes
    learner = set_up(base, recipe, device_of_this_process(processes.local_rank), parts=processes.parts)
    loop = TrainingLoop(
        recipe,
        learner,
        train=_objective(learner, recipe, material.train.rows),
        valid=_objective(learner, recipe, material.valid.rows) if material.valid.rows else None,
        watcher=watcher,
        checkpoints=conditions.checkpoints,
        processes=processes,
        stop_requested=conditions.stop_requested,
        auto_batch=conditions.auto_batch,
    )
    loop.run()
    return learner, _outcome(loop, recipe)


def _objective(learner: TrainableModel, recipe: Recipe, rows: tuple[object, ...]) -> Objective:
    if recipe.method == "dpo":
        most = recipe.training.max_tokens_per_batch
        return DpoLoss(learner, rows, beta=recipe.dpo.beta, max_tokens=most)  # type: ignore[arg-type]
    return SupervisedLoss(learner, rows)  # type: ignore[arg-type]


def _outcome(loop: TrainingLoop, recipe: Recipe) -> TrainedWeights:
    state, losses, learner = loop.state, loop.state.losses or [], loop.learner
    return TrainedWeights(
        tensors=_tensors(learner, recipe, loop.processes),
        target_modules=learner.target_modules,
        steps=state.step,
        epochs=round(state.step / loop.steps * recipe.training.num_train_epochs),
        input_tokens=state.input_tokens,
        steps_s=state.steps_s,
        train_loss=state.loss_sum / state.step,
        valid_loss_before=losses[0] if losses else None,
        valid_loss=min(losses[1:]) if losses[1:] else None,
        best_epoch=state.best_epoch,
        trainable_parameters=loop.masters.count,
        max_tokens_per_batch=state.max_tokens,
        device=torch.cuda.get_device_name() if learner.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        processes=loop.processes.count,
        base_parts=loop.processes.parts,
        arithmetic=cpu_arithmetic(),
    )


def cpu_arithmetic() -> str:
    """Return a fingerprint of how this CPU's kernels round, with the threads that torch has now.

    With AVX2, AVX-512 and AMX the same product is summed in another order, so the same run ends in other bytes.
    """
    numbers = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 2, 128, 512, generator=numbers) for _ in range(2))
    told = hashlib.sha256()
    for precision in (torch.float32, torch.bfloat16):
        left, right = one.to(precision), other.to(precision)
        for result in (left @ right.mT, functional.scaled_dot_product_attention(left, right, left, is_causal=True)):
            told.update(result.float().numpy().tobytes())
    return told.hexdigest()[:12]


def _tensors(learner: TrainableModel, recipe: Recipe, processes: DistributedState) -> dict[str, torch.Tensor]:
    """The weights; those of split layers in the first process only. All call it."""
    if recipe.method == "full":
        named = dict(learner.base.named_parameters())
    else:
        from peft import get_peft_model_state_dict

        named = get_peft_model_state_dict(learner.model)
    tensors = {}
    for name, tensor in sorted(named.items()):
        complete = full_tensor(local_tensor(tensor), tensor)
        if processes.is_first or not is_sharded(tensor):
            tensors[name] = complete.to("cpu", torch.bfloat16, copy=True).contiguous()
    return tensors
