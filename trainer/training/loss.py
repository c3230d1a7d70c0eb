"""Cross-entropy and log-probabilities of the learnt tokens, a chunk at a time: the full logits are never in memory.

Only positions whose next token is learnt go through the output layer, the dearest one of a small model. Gradients are
computed in the same pass, so nothing of the size of the vocabulary outlives its chunk.
"""

from typing import Any

import torch

CHUNK_TOKENS = 512


def summed_loss(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum over tokens of -log p(target); `hidden` is (tokens, size), `head` (vocabulary, size)."""
    loss: torch.Tensor = _SummedLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def token_logprobs(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) of each token in fp32; the logits of a chunk are computed again on the way back."""
    from torch.utils.checkpoint import checkpoint

    parts = [
        checkpoint(_chunk_logprobs, part, head, wanted, use_reentrant=False)
        if torch.is_grad_enabled()
        else _chunk_logprobs(part, head, wanted)
        for part, wanted in zip(torch.split(hidden, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
    ]
    return torch.cat(parts)


def _chunk_logprobs(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = (hidden @ head.T).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)


class _SummedLoss(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        learns_hidden, learns_head, _ = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden) if learns_hidden else None
        head_grad = torch.zeros_like(head, dtype=torch.float32) if learns_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            part, wanted = hidden[chunk], targets[chunk, None]
            logits = (part @ head.T).float()
            scale = logits.logsumexp(1, keepdim=True)
            total += (scale - logits.gather(1, wanted)).sum()
            if hidden_grad is None and head_grad is None:
                continue
            error = logits.sub_(scale).exp_()
            error.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=error.dtype))
            error = error.to(hidden.dtype)
            if hidden_grad is not None:
                torch.matmul(error, head, out=hidden_grad[chunk])
            if head_grad is not None:
                head_grad += (error.T @ part).float()
        ctx.save_for_backward(hidden_grad, None if head_grad is None else head_grad.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        (scale,) = grads
        return (
            None if hidden_grad is None else hidden_grad * scale.to(hidden_grad.dtype),
            None if head_grad is None else head_grad * scale.to(head_grad.dtype),
            None,
        )
