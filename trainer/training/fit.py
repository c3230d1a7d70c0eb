"""One run of the optimisation, from rendered rows to weights: what every method shares."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from trainer.training.checkpoint import Checkpoints
from trainer.training.distributed import DistributedState, full_tensor, is_sharded, local_tensor
from trainer.training.loop import Loop, Watcher
from trainer.training.model import TrainableModel, device_of_this_process, set_up
from trainer.training.objectives import Objective, Preference, Supervised
from trainer.training.prepare import PreparedData
from trainer.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Trained:
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
    material: PreparedData, recipe: Recipe, base: "PreTrainedModel", watcher: Watcher, conditions: FitConfig
) -> tuple[TrainableModel, Trained]:
    """Train what the recipe says on the loaded base; raises `Interrupted`, `RunError`."""
    processes = conditions.processes
    learner = set_up(base, recipe, device_of_this_process(processes.local_rank), parts=processes.parts)
    loop = Loop(
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
        return Preference(learner, rows, beta=recipe.dpo.beta, max_tokens=most)  # type: ignore[arg-type]
    return Supervised(learner, rows)  # type: ignore[arg-type]


def _outcome(loop: Loop, recipe: Recipe) -> Trained:
    state, losses, learner = loop.state, loop.state.losses or [], loop.learner
    return Trained(
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
        arithmetic=arithmetic(),
    )


def arithmetic() -> str:
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
