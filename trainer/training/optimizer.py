"""Mixed-precision AdamW over fp32 master weights, the learning-rate schedule, and the random seed of each step.

The model computes in bf16; the gradients of micro-batches are summed in fp32, so their number does not change a step.
With FSDP, each rank keeps the master weights of its own shards.
"""

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import nn

from trainer.errors import RunError
from trainer.training.distributed import DistributedState, full_tensor, is_sharded, local_tensor, shard_of
from trainer.training.recipe import Training


def learning_rate_factor(step: int, steps: int, *, kind: str, warmup_fraction: float) -> float:
    """Return the learning rate at `step` (from 1) as a share of its peak; `kind` is transformers' lr_scheduler_type.

    Warm-up rises to the peak and is not zero at its first step; after it, linear and cosine fall towards zero.
    """
    warmup = 0 if kind == "constant" else math.ceil(warmup_fraction * steps)
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    if kind == "linear":
        return 1 - done
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the random seed of one rank in one step, so that a resumed run draws the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7])


class MasterWeightsAdamW:
    """AdamW over fp32 master weights of bf16 parameters."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], distributed: DistributedState, training: Training | None = None
    ) -> None:
        options = training or Training()
        self._parameters, self._distributed = parameters, distributed
        self._sharded = [name for name, p in parameters.items() if is_sharded(p)]
        self._masters = {name: local_tensor(p).float().clone() for name, p in parameters.items()}
        self._max_norm = options.max_grad_norm or math.inf
        self._optimizer = torch.optim.AdamW(
            self._masters.values(),
            lr=0.0,
            betas=(options.adam_beta1, options.adam_beta2),
            eps=options.adam_epsilon,
            weight_decay=options.weight_decay,
            fused=True,
        )
        for master in self._masters.values():
            master.grad = torch.zeros_like(master)

    @property
    def parameter_count(self) -> int:
        """The number of trainable parameters over all ranks."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def collect(self) -> None:
        """Add the model's gradients to those of the step, and clear them in the model."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._grad(name).add_(local_tensor(parameter.grad))
                parameter.grad = None

    def step(self, learning_rate: float, denominator: float) -> float:
        """Update with the collected gradients over `denominator`; returns their norm. Raises `RunError` at NaN."""
        grads = [self._grad(name) for name in self._masters]
        torch._foreach_mul_(grads, 1.0 / denominator)
        norm = self._norm()
        if norm != norm or norm == float("inf"):
            raise RunError("the loss diverged: a gradient is not finite; lower training.learning_rate.")
        nn.utils.clip_grads_with_norm_(self._masters.values(), self._max_norm, torch.tensor(norm))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_([local_tensor(p) for p in self._parameters.values()], list(self._masters.values()))
        torch._foreach_zero_(grads)
        return norm

    def discard_gradients(self) -> None:
        """Clear the gradients collected so far."""
        for parameter in self._parameters.values():
            parameter.grad = None
        torch._foreach_zero_([self._grad(name) for name in self._masters])

    def gradients(self) -> list[torch.Tensor]:
        """Return the gradients not yet summed over ranks; FSDP sums those of sharded layers in every backward pass."""
        return [self._grad(name) for name in self._masters if name not in self._sharded]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copy this rank's weights, as they are computed with, to the CPU."""
        return {name: local_tensor(p).to("cpu", copy=True).contiguous() for name, p in self._parameters.items()}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back into the model; the master weights stay as they are."""
        for name, parameter in self._parameters.items():
            local_tensor(parameter).copy_(weights[name])

    def full_snapshot(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gather the snapshots of all ranks on rank 0; all ranks call it."""
        like = self._parameters
        return self._gathered((name, weights[name].to(like[name].device), like[name]) for name in like)

    def local_snapshot(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return this rank's part of a full snapshot."""
        own = {name: shard_of(weights[name], like) for name, like in self._parameters.items()}
        return {name: part.to("cpu", copy=True).contiguous() for name, part in own.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Gather the optimizer state as named tensors on rank 0; all ranks call it."""
        parts = [(f"master/{name}", master, self._parameters[name]) for name, master in self._masters.items()]
        for name, master in self._masters.items():
            for key, value in self._optimizer.state[master].items():
                parts.append((f"{key}/{name}", value, self._parameters[name] if value.dim() else value))
        return self._gathered(parts)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from the result of `state`, with any world size."""
        for name, master in self._masters.items():
            parameter = self._parameters[name]
            master.copy_(shard_of(state[f"master/{name}"], parameter))
            local_tensor(parameter).copy_(master)
            moments = {key: shard_of(state[f"{key}/{name}"], parameter) for key in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[master] = {
                "step": state[f"step/{name}"].clone(),
                **{key: moment.to(master.device, copy=True) for key, moment in moments.items()},
            }

    def _norm(self) -> float:
        """Return the norm of all gradients over all ranks."""
        norm = float(nn.utils.get_total_norm(self.gradients()))
        if not self._sharded:
            return norm
        own = float(nn.utils.get_total_norm([self._grad(name) for name in self._sharded]))
        return math.hypot(norm, math.sqrt(self._distributed.sum(own * own)))

    def _gathered(self, parts: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Make full tensors of shards (name, shard, parameter with its sharding) one by one, on the CPU of rank 0."""
        kept = {}
        for name, part, like in parts:
            tensor = full_tensor(part, like)
            if self._distributed.is_main:
                kept[name] = tensor.detach().to("cpu").contiguous()
        return kept

    def _grad(self, name: str) -> torch.Tensor:
        grad = self._masters[name].grad
        assert grad is not None, "gradients are allocated once"
        return grad
