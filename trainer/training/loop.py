"""The training loop: optimizer steps, the eval loss every epoch or `eval_steps`, early stopping, checkpoints.

`fit` puts the trainable weights on a loaded base, runs the loop and returns the result. A run that was interrupted and
continued from its checkpoint takes the same steps with the same numbers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from trainer.errors import Interrupted, OutOfMemoryError
from trainer.training.batching import epoch_batches, rank_batches, rank_shard
from trainer.training.checkpoint import Checkpoints, LoopState
from trainer.training.dataset import PreparedData
from trainer.training.distributed import DistributedState, full_tensor, is_sharded, local_tensor
from trainer.training.initial_adapter import load_initial_weights
from trainer.training.loss import Objective, SupervisedLoss, evaluate_loss
from trainer.training.memory import out_of_memory
from trainer.training.model import TrainableModel, adapter_tensors, local_device, make_trainable
from trainer.training.optimizer import MasterWeightsAdamW, learning_rate_factor, step_seed
from trainer.training.preferences import DpoLoss, KtoLoss, KtoWeights, OrpoLoss, Reference
from trainer.training.recipe import Recipe
from trainer.training.run_metadata import cpu_arithmetic
from trainer.training.self_check import SelfCheck, checked
from trainer.training.targets import checkpoint_prefix, refuse_unbound, refuse_unserved, renamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = dict[str, torch.Tensor]
_MIN_TOKENS = 64


class MetricsListener(Protocol):
    """Receives the metrics of a run."""

    def on_start(self, state: LoopState, steps: int) -> None:
        """Begin or continue a run of `steps` steps at `state`."""
        ...

    def on_step(
        self,
        state: LoopState,
        *,
        epoch: float,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        rewards: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Take the metrics of an optimizer step."""
        ...

    def on_eval(
        self, state: LoopState, *, epoch: float, eval_loss: float, rewards: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """Take an eval loss; epoch 0 is before training."""
        ...


@dataclass(frozen=True)
class TrainedWeights:
    """The result of a run: the weights in bf16 on the CPU, and its figures.

    `tensors` are LoRA matrices under PEFT's names, or all weights of the base for full fine-tuning. `base_shards` is
    the number of processes that the base's layers were sharded over, `arithmetic` a fingerprint of this CPU's rounding.
    `checkpoint_prefix` is the decoder's prefix in memory and in the checkpoint, where they differ.
    Losses are means over loss tokens, or over rows for preference methods; eval losses are None without validation
    rows. `rewards` are those of the validation rows with these weights, for preference methods.
    """

    tensors: dict[str, torch.Tensor]
    target_modules: tuple[str, ...]
    steps: int
    epochs: float
    input_tokens: int
    steps_s: float
    train_loss: float
    eval_loss_before: float | None
    eval_loss: float | None
    best_epoch: float | None
    trainable_parameters: int
    max_tokens_per_batch: int
    device: str
    threads: int
    world_size: int
    base_shards: int
    arithmetic: str
    self_check: SelfCheck
    checkpoint_prefix: tuple[str, str] = ("", "")
    rewards: Mapping[str, float] | None = None


@dataclass(frozen=True)
class FitConfig:
    """How to run the loop; nothing here changes the weights."""

    checkpoints: Checkpoints | None = None
    distributed: DistributedState = DistributedState()  # noqa: RUF009 - frozen
    stop_requested: Callable[[], bool] = lambda: False
    auto_batch: bool = False
    say: Callable[[str], None] = lambda sentence: None


def fit(
    data: PreparedData, recipe: Recipe, base: "PreTrainedModel", listener: MetricsListener, config: FitConfig
) -> tuple[TrainableModel, TrainedWeights]:
    """Train by the recipe on the loaded base; raises `Interrupted`, `RunError`."""
    distributed = config.distributed
    model = make_trainable(base, recipe, local_device(distributed.local_rank), shards=distributed.base_shards)
    if recipe.method != "full":
        refuse_unserved(base.config.architectures or (), data.base_model.path.name)
        prefix = checkpoint_prefix(base, data.base_model)
        tensors = adapter_tensors(model)
        refuse_unbound({renamed(name, prefix): t for name, t in tensors.items()}, data.base_model)
        if data.initial is not None:
            load_initial_weights(model, data.initial, prefix)
    longest = max(row.tokens for row in (*data.train.rows, *data.valid.rows))
    model, check = checked(model, longest=longest, distributed=distributed)
    for sentence in check.sentences:
        config.say(f"{data.base.name}: {sentence}")
    loop = TrainingLoop(
        recipe,
        model,
        train=_objective(model, data, recipe, data.train.rows, distributed),
        valid=_objective(model, data, recipe, data.valid.rows, distributed) if data.valid.rows else None,
        listener=listener,
        checkpoints=config.checkpoints,
        distributed=distributed,
        stop_requested=config.stop_requested,
        auto_batch=config.auto_batch,
    )
    loop.run()
    return model, _result(loop, recipe, check, checkpoint_prefix(base, data.base_model))


@dataclass
class TrainingLoop:
    """One run over the training rows. `auto_batch` halves `max_tokens_per_batch` when memory runs out."""

    recipe: Recipe
    model: TrainableModel
    train: Objective
    valid: Objective | None
    listener: MetricsListener
    checkpoints: Checkpoints | None = None
    distributed: DistributedState = field(default_factory=DistributedState)
    stop_requested: Callable[[], bool] = lambda: False
    auto_batch: bool = False
    state: LoopState = field(default_factory=LoopState)
    best: Weights | None = None

    def __post_init__(self) -> None:
        training = self.recipe.training
        self.optimizer = MasterWeightsAdamW(self.model.trainable_parameters, self.distributed, training)
        self._rows_per_step = training.effective_batch_size
        self._epoch_steps = -(-len(self.train.lengths) // self._rows_per_step)
        self.steps = self._epoch_steps * training.num_train_epochs
        self._save_every = training.save_steps or max(1, self.steps // 10)
        self._eval_every = training.eval_steps or self._epoch_steps
        self.state.max_tokens = training.max_tokens_per_batch

    def run(self) -> LoopState:
        """Train to the end and leave the best weights in the model; raises `Interrupted`, `RunError`."""
        self._load_checkpoint()
        self.model.module.train()
        self.listener.on_start(self.state, self.steps)
        if self.valid is not None and not self.state.losses:
            self._evaluate(0)
        for epoch in range(self.recipe.training.num_train_epochs):
            if self._epoch(epoch):
                break
        if self.best is not None:
            self.optimizer.restore(self.best)
        return self.state

    def _load_checkpoint(self) -> None:
        if self.checkpoints is None or (found := self.checkpoints.load()) is None:
            return
        self.state, self.best = found.state, found.best and self.optimizer.local_snapshot(found.best)
        self.optimizer.load_state(found.optimizer)

    def _epoch(self, epoch: int) -> bool:
        """Take the steps of an epoch that are left; returns whether the run stops early."""
        batches = epoch_batches(len(self.train.lengths), self._rows_per_step, seed=self.recipe.seed, epoch=epoch)
        for number, rows in enumerate(batches, start=epoch * self._epoch_steps + 1):
            if number > self.state.step:
                self._step_and_save(number, rows)
            evaluation = self._evaluation_after(number)
            if self.valid is not None and number == self.state.step and evaluation:
                if len(self.state.losses or ()) <= evaluation:
                    self._evaluate(evaluation)
                if self._stops_early(evaluation):
                    self._save()
                    return True
        return False

    def _step_and_save(self, number: int, rows: Sequence[int]) -> None:
        self._step(number, rows)
        if self.distributed.sum(float(self.stop_requested())):
            self._save()
            raise Interrupted(self.state.step, self.steps)
        if number % self._save_every == 0 or number == self.steps:
            self._save()

    def _evaluation_after(self, number: int) -> int:
        """Return which evaluation follows a step: 1 is the first, 0 none."""
        is_due = number % self._eval_every == 0 or number == self.steps
        return -(-number // self._eval_every) if is_due else 0

    def _step(self, number: int, rows: Sequence[int]) -> None:
        began = time.perf_counter()
        training, distributed = self.recipe.training, self.distributed
        own = rank_shard(rows, self.train.lengths, rank=distributed.rank, world_size=distributed.world_size)
        weight = sum(self.train.weights[row] for row in rows)
        self.train.begin_step(rows)
        loss = distributed.sum(self._forward_backward(number, own)) / weight
        distributed.sum_tensors(self.optimizer.gradients())
        learning_rate = training.learning_rate * learning_rate_factor(
            number, self.steps, kind=training.lr_scheduler_type, warmup_fraction=training.warmup_fraction
        )
        norm = self.optimizer.step(learning_rate, weight)
        state = self.state
        state.step = number
        state.input_tokens += sum(self.train.lengths[row] for row in rows)
        state.loss_sum += loss
        state.steps_s += time.perf_counter() - began
        epoch = number / self._epoch_steps
        figures = {"loss": loss, "learning_rate": learning_rate, "grad_norm": norm}
        self.listener.on_step(state, epoch=epoch, rewards=self._means(self.train.rewards.take()), **figures)

    def _means(self, rewards: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return the means of rewards over all ranks, with their margin; none where no row had one."""
        sums = {name: (self.distributed.sum(total), self.distributed.sum(n)) for name, (total, n) in rewards.items()}
        means = {name: total / weight for name, (total, weight) in sums.items() if weight}
        both = {"chosen", "rejected"} <= means.keys()
        return means | ({"margin": means["chosen"] - means["rejected"]} if both else {})

    def _forward_backward(self, number: int, rows: Sequence[int]) -> float:
        """Return the summed loss of the rows, and collect its gradients."""
        while True:
            try:
                return self._micro_batches(number, rows)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                self._halve_or_refuse(rows, error)

    def _micro_batches(self, number: int, rows: Sequence[int]) -> float:
        torch.manual_seed(step_seed(self.recipe.seed, number, self.distributed.rank))
        total = torch.zeros((), device=self.model.device)
        # One row at a time, every rank makes as many passes of its decoder as it has batches.
        max_rows = self.recipe.training.per_device_train_batch_size if self.model.layout == "packed" else 1
        size = {"max_rows": max_rows, "max_tokens": self.state.max_tokens}
        for batch, counts in rank_batches(rows, self.train.lengths, **size, distributed=self.distributed):
            total += self._backward(self.train.summed(batch, counts=counts))
        return float(total)

    def _backward(self, loss: torch.Tensor) -> torch.Tensor:
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.collect()
        return loss.detach()

    def _halve_or_refuse(self, rows: Sequence[int], error: Exception) -> None:
        """Halve the tokens of a micro-batch where that can help; else raise `OutOfMemoryError`."""
        longest = max(self.train.lengths[row] for row in rows)
        used = min(self.state.max_tokens, sum(self.train.lengths[row] for row in rows))
        less = max(_MIN_TOKENS, used // 2)
        # With FSDP, every rank must make as many passes, so one rank cannot halve alone.
        if not self.auto_batch or self.distributed.fsdp or used <= longest or less == used:
            checkpointing = self.recipe.training.gradient_checkpointing
            raise OutOfMemoryError.during_a_step(used, longest, checkpointing=checkpointing) from error
        self.state.max_tokens = less
        self.optimizer.discard_gradients()
        self.train.rewards.take()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _evaluate(self, evaluation: int) -> None:
        """Evaluate after a step of the schedule; evaluation 0 is before training."""
        assert self.valid is not None, "called only with validation rows"
        loss = evaluate_loss(self.model, self.valid, max_tokens=self.state.max_tokens, distributed=self.distributed)
        self.state.losses = [*(self.state.losses or []), loss]
        epoch, rewards = self.epochs_of(self.state.step), self._means(self.valid.rewards.take())
        if evaluation and loss == min(self.state.losses[1:]):
            self.state.best_epoch, self.best = epoch, self.optimizer.snapshot()
            self.state.rewards = rewards or None
        self.listener.on_eval(self.state, epoch=epoch, eval_loss=loss, rewards=rewards)

    def epochs_of(self, steps: int) -> float:
        """Return steps as epochs: whole ones as an integer."""
        return steps // self._epoch_steps if steps % self._epoch_steps == 0 else round(steps / self._epoch_steps, 2)

    def _stops_early(self, evaluation: int) -> bool:
        patience, losses = self.recipe.training.early_stopping_patience, (self.state.losses or [])[1:]
        lowest = min(losses)
        best = max((number for number, loss in enumerate(losses, start=1) if loss == lowest), default=0)
        return patience > 0 and evaluation - best >= patience

    def _save(self) -> None:
        if self.checkpoints is None or not (self.distributed.is_main or self.distributed.fsdp):
            return
        optimizer, best = self.optimizer.state(), self.best and self.optimizer.full_snapshot(self.best)
        if self.distributed.is_main:
            self.checkpoints.save(self.state, optimizer, best)


def _objective(
    model: TrainableModel, data: PreparedData, recipe: Recipe, rows: tuple[Any, ...], distributed: DistributedState
) -> Objective:
    max_tokens, is_adapter = recipe.training.max_tokens_per_batch, data.initial is not None
    reference = Reference(max_tokens, is_adapter=is_adapter, distributed=distributed)
    if recipe.method == "dpo":
        return DpoLoss(model, rows, beta=recipe.dpo.beta, reference=reference)
    if recipe.method == "orpo":
        return OrpoLoss(model, rows, beta=recipe.orpo.beta)
    if recipe.method == "kto":
        return KtoLoss(model, rows, kto=KtoWeights(**recipe.kto.model_dump()), reference=reference)
    return SupervisedLoss(model, rows)


def _result(loop: TrainingLoop, recipe: Recipe, check: SelfCheck, prefix: tuple[str, str]) -> TrainedWeights:
    state, losses, model = loop.state, loop.state.losses or [], loop.model
    return TrainedWeights(
        tensors=_tensors(model, recipe, loop.distributed),
        target_modules=model.target_modules,
        steps=state.step,
        epochs=loop.epochs_of(state.step),
        input_tokens=state.input_tokens,
        steps_s=state.steps_s,
        train_loss=state.loss_sum / state.step,
        eval_loss_before=losses[0] if losses else None,
        eval_loss=min(losses[1:]) if losses[1:] else None,
        best_epoch=state.best_epoch,
        trainable_parameters=loop.optimizer.parameter_count,
        max_tokens_per_batch=state.max_tokens,
        device=torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        world_size=loop.distributed.world_size,
        base_shards=loop.distributed.base_shards,
        arithmetic=cpu_arithmetic(),
        self_check=check,
        checkpoint_prefix=prefix,
        rewards=state.rewards,
    )


def _tensors(model: TrainableModel, recipe: Recipe, distributed: DistributedState) -> Weights:
    """Return the trained weights; those of sharded layers on rank 0 only. All ranks call it."""
    named = full_weights(model) if recipe.method == "full" else adapter_tensors(model)
    tensors = {}
    for name, tensor in sorted(named.items()):
        complete = full_tensor(local_tensor(tensor), tensor)
        if distributed.is_main or not is_sharded(tensor):
            dtype = (
                torch.bfloat16 if isinstance(tensor, torch.nn.Parameter) or recipe.method != "full" else tensor.dtype
            )
            tensors[name] = complete.to("cpu", dtype, copy=True).contiguous()
    return as_saved(model, tensors) if recipe.method == "full" and distributed.is_main else tensors


def full_weights(model: TrainableModel) -> Weights:
    """Return all parameters, and the buffers that a checkpoint has (the biases of DeepSeek's routers, say)."""
    saved, buffers = model.base.state_dict(), dict(model.base.named_buffers())
    return {**dict(model.base.named_parameters()), **{name: saved[name] for name in buffers if name in saved}}


def as_saved(model: TrainableModel, tensors: Weights) -> Weights:
    """Return the weights under the names and in the shapes of a checkpoint: experts one by one, say."""
    from transformers.core_model_loading import revert_weight_conversion

    saved: Weights = revert_weight_conversion(model.base, tensors)
    return {name: tensor.contiguous() for name, tensor in sorted(saved.items())}
