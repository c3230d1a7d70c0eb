"""Cross-entropy and log-probabilities of the learnt tokens, a chunk at a time: the full logits are never in memory.

Only positions whose next token is learnt go through the output layer, the dearest one of a small model. Gradients are
computed in the same pass, so nothing of the size of the vocabulary outlives its chunk.

What is minimised: the loss over learnt tokens, or the preference for one answer over another (DPO).

Both are sums over rows that are divided by the weight of the whole step, so neither the number of pieces nor the number
of processes changes what a step learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from trainer.training.batching import PackedBatch, micro_batches, pack
from trainer.training.loss_mask import RenderedExample, RenderedPair
from trainer.training.model import TrainableModel

CHUNK_TOKENS = 512


def summed_cross_entropy(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
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


class Objective(Protocol):
    """A set of rows and the loss over them."""

    lengths: list[int]
    """Tokens that each row sends through the model."""
    weights: list[int]
    """What each row adds to the denominator of the mean."""

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """The loss of these rows, summed."""
        ...


class SupervisedLoss:
    """Cross-entropy of the learnt tokens; the mean is per token."""

    def __init__(self, learner: TrainableModel, rows: Sequence[RenderedExample]) -> None:
        self.lengths = [len(row.input_ids) for row in rows]
        self.weights = [row.trained_tokens for row in rows]
        self._learner, self._rows = learner, rows

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """The loss of these rows, summed over their learnt tokens."""
        packed = pack([self._rows[row] for row in rows], self._learner.device)
        return summed_cross_entropy(self._learner.hidden(packed), self._learner.head, packed.targets)


class DpoLoss:
    """DPO's sigmoid loss; the mean is per pair. The reference is the base without the adapter, asked once per pair."""

    def __init__(self, learner: TrainableModel, pairs: Sequence[RenderedPair], *, beta: float, max_tokens: int) -> None:
        self.lengths = [len(pair.chosen.input_ids) + len(pair.rejected.input_ids) for pair in pairs]
        self.weights = [1] * len(pairs)
        self._learner, self._pairs, self._beta = learner, pairs, beta
        self._reference = self._reference_margins(max_tokens)

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """The loss of these pairs, summed."""
        margins = self._margins(rows) - self._reference[torch.tensor(rows)].to(self._learner.device)
        return -functional.logsigmoid(self._beta * margins).sum()

    def _margins(self, rows: Sequence[int]) -> torch.Tensor:
        """log p(chosen) - log p(rejected) of each pair."""
        sides = [side for row in rows for side in (self._pairs[row].chosen, self._pairs[row].rejected)]
        sums = row_logprobs(self._learner, pack(sides, self._learner.device))
        return sums[0::2] - sums[1::2]

    @torch.no_grad()
    def _reference_margins(self, max_tokens: int) -> torch.Tensor:
        margins = torch.zeros(len(self._pairs))
        with without_dropout(self._learner), self._learner.without_adapter():
            for rows in micro_batches(range(len(self._pairs)), self.lengths, max_rows=64, max_tokens=max_tokens):
                margins[torch.tensor(rows)] = self._margins(rows).cpu()
        return margins


def row_logprobs(learner: TrainableModel, packed: PackedBatch) -> torch.Tensor:
    """The summed log-probability of each row's learnt tokens."""
    logprobs = token_logprobs(learner.hidden(packed), learner.head, packed.targets)
    return torch.stack([part.sum() for part in torch.split(logprobs, list(packed.learnt_per_row))])


@torch.no_grad()
def evaluate_loss(learner: TrainableModel, objective: Objective, *, max_tokens: int) -> float:
    """The mean loss over all rows of an objective, without dropout."""
    total = 0.0
    with without_dropout(learner):
        for rows in micro_batches(range(len(objective.lengths)), objective.lengths, max_rows=64, max_tokens=max_tokens):
            total += float(objective.summed(rows))
    return total / sum(objective.weights)


@dataclass(slots=True)
class without_dropout:  # noqa: N801 - a context manager, read as a word
    """Within the block the model has no dropout.

    Only dropout is switched: on a CPU, bitsandbytes 0.50 repacks NF4 weights the first time a layer in eval mode is
    asked, and from then on its forward pass has no gradient, also back in training mode.
    """

    learner: TrainableModel

    def __enter__(self) -> None:
        self._switch(training=False)

    def __exit__(self, *_: object) -> None:
        self._switch(training=True)

    def _switch(self, *, training: bool) -> None:
        for module in self.learner.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train(training)
