"""The learning rate over the steps of a run, and the random numbers of each step.

What is learnt in two precisions: bf16 in the model, fp32 masters with AdamW beside it.

The model computes in bf16 from end to end. Gradients of each piece of a step are added up in fp32, so it makes no
difference in how many pieces a step goes through the model. Where the base is split over processes, each keeps the
masters of its own parts.
"""

import hashlib
import math
from collections.abc import Iterable

import torch

from trainer.errors import RunError
from trainer.training.distributed import DistributedState, full_tensor, is_sharded, local_tensor, shard_of


def learning_rate_factor(step: int, steps: int, *, kind: str, warmup_fraction: float) -> float:
    """The share of the peak learning rate at `step`, which counts from 1; `kind` is transformers' lr_scheduler_type.

    Warm-up rises to the peak, its first step included; after it, linear and cosine fall towards zero.
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
    """The seed of one process's random numbers in one step: a run that was interrupted draws the same ones."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7])


MAX_GRAD_NORM = 1.0


class MasterWeightsAdamW:
    """fp32 masters of bf16 parameters and their optimiser."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], processes: DistributedState) -> None:
        self._parameters, self._processes = parameters, processes
        self._split = [name for name, p in parameters.items() if is_sharded(p)]
        self._masters = {name: local_tensor(p).float().clone() for name, p in parameters.items()}
        self._optimizer = torch.optim.AdamW(self._masters.values(), lr=0.0, weight_decay=0.0, fused=True)
        for master in self._masters.values():
            master.grad = torch.zeros_like(master)

    @property
    def count(self) -> int:
        """How many numbers are learnt, by all processes together."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def collect(self) -> None:
        """Add the model's gradients to the step's and clear them there."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._grad(name).add_(local_tensor(parameter.grad))
                parameter.grad = None

    def step(self, learning_rate: float, denominator: float) -> float:
        """One update with the collected gradients over `denominator`; returns their norm. Raises `RunError` at NaN."""
        grads = [self._grad(name) for name in self._masters]
        torch._foreach_mul_(grads, 1.0 / denominator)
        norm = self._norm()
        if norm != norm or norm == float("inf"):
            raise RunError("the loss diverged: a gradient is not finite; lower training.learning_rate.")
        torch.nn.utils.clip_grads_with_norm_(self._masters.values(), MAX_GRAD_NORM, torch.tensor(norm))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_([local_tensor(p) for p in self._parameters.values()], list(self._masters.values()))
        torch._foreach_zero_(grads)
        return norm

    def discard(self) -> None:
        """Forget the gradients collected so far."""
        for parameter in self._parameters.values():
            parameter.grad = None
        torch._foreach_zero_([self._grad(name) for name in self._masters])

    def gradients(self) -> list[torch.Tensor]:
        """The step's gradients that are not yet summed over processes; those of split layers are, after every pass."""
        return [self._grad(name) for name in self._masters if name not in self._split]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """This process's bf16 weights, copied to the CPU."""
        return {name: local_tensor(p).to("cpu", copy=True).contiguous() for name, p in self._parameters.items()}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back into the model; the masters stay as they are."""
        for name, parameter in self._parameters.items():
            local_tensor(parameter).copy_(weights[name])

    def whole_snapshot(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the snapshots of all processes hold, in the first process; all call it."""
        like = self._parameters
        return self._in_first((name, weights[name].to(like[name].device), like[name]) for name in like)

    def own_snapshot(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process's snapshot out of a whole one."""
        own = {name: shard_of(weights[name], like) for name, like in self._parameters.items()}
        return {name: part.to("cpu", copy=True).contiguous() for name, part in own.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on, as named tensors, in the first process; all call it."""
        parts = [(f"master/{name}", master, self._parameters[name]) for name, master in self._masters.items()]
        for name, master in self._masters.items():
            for key, value in self._optimizer.state[master].items():
                parts.append((f"{key}/{name}", value, self._parameters[name] if value.dim() else value))
        return self._in_first(parts)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what `state` gave, in however many processes."""
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
        """The norm of all gradients over all processes."""
        norm = float(torch.nn.utils.get_total_norm(self.gradients()))
        if not self._split:
            return norm
        own = float(torch.nn.utils.get_total_norm([self._grad(name) for name in self._split]))
        return math.hypot(norm, math.sqrt(self._processes.sum(own * own)))

    def _in_first(self, parts: Iterable[tuple[str, torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Parts (name, part, how it is split) made whole one after the other, kept on the CPU of the first process."""
        kept = {}
        for name, part, like in parts:
            tensor = full_tensor(part, like)
            if self._processes.is_first:
                kept[name] = tensor.detach().to("cpu").contiguous()
        return kept

    def _grad(self, name: str) -> torch.Tensor:
        grad = self._masters[name].grad
        assert grad is not None, "gradients are allocated once"
        return grad
