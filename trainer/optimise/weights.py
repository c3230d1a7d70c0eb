"""What is learnt in two precisions: bf16 in the model, fp32 masters with AdamW beside it.

The model computes in bf16 from end to end. Gradients of each piece of a step are added up in fp32, so it makes no
difference in how many pieces a step goes through the model.
"""

import torch

from trainer.errors import RunError

MAX_GRAD_NORM = 1.0


class Masters:
    """fp32 masters of bf16 parameters and their optimiser."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._masters = {name: p.detach().float().clone() for name, p in parameters.items()}
        self._optimizer = torch.optim.AdamW(self._masters.values(), lr=0.0, weight_decay=0.0, fused=True)
        for master in self._masters.values():
            master.grad = torch.zeros_like(master)

    @property
    def count(self) -> int:
        """How many numbers are learnt."""
        return sum(master.numel() for master in self._masters.values())

    def collect(self) -> None:
        """Add the model's gradients to the step's and clear them there."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._grad(name).add_(parameter.grad)
                parameter.grad = None

    def step(self, learning_rate: float, denominator: float) -> float:
        """One update with the collected gradients over `denominator`; returns their norm. Raises `RunError` at NaN."""
        grads = [self._grad(name) for name in self._masters]
        torch._foreach_mul_(grads, 1.0 / denominator)
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters.values(), MAX_GRAD_NORM))
        if norm != norm or norm == float("inf"):
            raise RunError("the loss diverged: a gradient is not finite; lower training.learning_rate.")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self._parameters.values()), list(self._masters.values()))
        torch._foreach_zero_(grads)
        return norm

    def discard(self) -> None:
        """Forget the gradients collected so far."""
        for parameter in self._parameters.values():
            parameter.grad = None
        torch._foreach_zero_(self.gradients())

    def gradients(self) -> list[torch.Tensor]:
        """The step's gradients so far, for summing over processes."""
        return [self._grad(name) for name in self._masters]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """The bf16 weights, copied to the CPU."""
        return {name: p.detach().to("cpu", copy=True).contiguous() for name, p in self._parameters.items()}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back into the model; the masters stay as they are."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])

    def state(self) -> dict[str, torch.Tensor]:
        """Everything the next step depends on, as named tensors."""
        state = {f"master/{name}": master for name, master in self._masters.items()}
        for name, master in self._masters.items():
            for key, value in self._optimizer.state[master].items():
                state[f"{key}/{name}"] = value
        return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from what `state` gave."""
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(state[f"master/{name}"])
                self._parameters[name].copy_(master)
                self._optimizer.state[master] = {
                    "step": state[f"step/{name}"].clone(),
                    **{k: state[f"{k}/{name}"].to(master.device, copy=True) for k in ("exp_avg", "exp_avg_sq")},
                }

    def _grad(self, name: str) -> torch.Tensor:
        grad = self._masters[name].grad
        assert grad is not None, "gradients are allocated once"
        return grad
