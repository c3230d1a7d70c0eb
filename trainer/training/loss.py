"""Cross-entropy over loss tokens, and the interface and the evaluation of every loss; preferences.py has the others.

Losses are sums over rows, divided by the weight of the whole step, so that neither micro-batches nor ranks change it.
Cross-entropy and log-probabilities are computed in chunks: only the hidden states of loss tokens go through the output
layer, and gradients are computed in the same pass, so the full logits are never in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainer.training.batching import PackedBatch, pack, rank_batches, rank_shard
from trainer.training.distributed import DistributedState
from trainer.training.loss_mask import RenderedExample
from trainer.training.model import TrainableModel
from trainer.training.output_layer import Head, logits_of

CHUNK_TOKENS = 512
_EVALUATED_ROWS = 64
_ALONE = DistributedState()


def summed_cross_entropy(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum over tokens of -log p(target); `hidden` is (tokens, size), a matrix `head` (vocabulary, size)."""
    if not isinstance(head, torch.Tensor):
        return -token_logprobs(hidden, head, targets).sum()
    loss: torch.Tensor = _SummedLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return loss


def token_logprobs(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """Return log p(target) of each token in fp32; the backward pass computes the logits of a chunk again."""
    from torch.utils.checkpoint import checkpoint

    parts = [
        checkpoint(_chunk_logprobs, part, head, wanted, use_reentrant=False)
        if torch.is_grad_enabled()
        else _chunk_logprobs(part, head, wanted)
        for part, wanted in zip(torch.split(hidden, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True)
    ]
    return torch.cat(parts)


def _chunk_logprobs(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    logits = logits_of(hidden, head).float()
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


class RewardSums:
    """Sums of rewards and of the weights of their rows, for the curves of a run; kept until they are taken."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._sums = dict.fromkeys(names, (0.0, 0.0))

    def add(self, name: str, values: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the values of some rows."""
        total, weight = self._sums[name]
        self._sums[name] = total + float((values.detach() * weights).sum()), weight + float(weights.sum())

    def take(self) -> dict[str, tuple[float, float]]:
        """Return sum and weight by name, and begin anew."""
        taken, self._sums = self._sums, dict.fromkeys(self._names, (0.0, 0.0))
        return taken


class Objective(Protocol):
    """A set of rows and the loss over them, in nats."""

    lengths: list[int]
    """Input tokens of each row."""
    weights: list[float]
    """The contribution of each row to the denominator of the mean."""
    rewards: RewardSums
    """The rewards of the rows since they were last taken; empty for methods without rewards."""

    def begin_step(self, rows: Sequence[int]) -> None:
        """Compute what all rows of an optimizer step, or of an evaluation, share; all ranks call it."""
        ...

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        """Return the summed loss of these rows; 0, after the same computation, of rows that do not count."""
        ...


class SupervisedLoss:
    """Cross-entropy of the loss tokens, times their weights; the mean is over the sum of weights."""

    def __init__(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> None:
        self.lengths = [len(row.input_ids) for row in rows]
        self.weights = [sum(row.loss_weights) or float(row.loss_tokens) for row in rows]
        self.rewards = RewardSums()
        self._learner, self._rows = model, rows

    def begin_step(self, rows: Sequence[int]) -> None:
        """Do nothing: rows are independent."""

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        """Return the cross-entropy of these rows, summed over their loss tokens."""
        packed = pack([self._rows[row] for row in rows], self._learner.device)
        hidden, head = self._learner.hidden(packed), self._learner.head
        if packed.loss_weights is None:
            loss = summed_cross_entropy(hidden, head, packed.targets)
        else:
            loss = -(token_logprobs(hidden, head, packed.targets) * packed.loss_weights).sum()
        return loss if counts else loss * 0.0


def row_logprobs(model: TrainableModel, packed: PackedBatch) -> torch.Tensor:
    """Return the summed log-probability of each row's loss tokens."""
    logprobs = token_logprobs(model.hidden(packed), model.head, packed.targets)
    return torch.stack([part.sum() for part in torch.split(logprobs, list(packed.loss_tokens_per_row))])


@torch.no_grad()
def evaluate_loss(
    model: TrainableModel, objective: Objective, *, max_tokens: int, distributed: DistributedState = _ALONE
) -> float:
    """Return the mean loss over all rows of an objective, without dropout; the ranks share the rows."""
    total = 0.0
    with without_dropout(model):
        objective.begin_step(range(len(objective.lengths)))
        for rows, counts in shared_batches(model, objective.lengths, max_tokens, distributed):
            total += float(objective.summed(rows, counts=counts))
    return distributed.sum(total) / sum(objective.weights)


def shared_batches(
    model: TrainableModel, lengths: Sequence[int], max_tokens: int, distributed: DistributedState
) -> Iterator[tuple[list[int], bool]]:
    """Yield this rank's micro-batches of all rows, each row on one rank, and whether each counts."""
    own = rank_shard(range(len(lengths)), lengths, rank=distributed.rank, world_size=distributed.world_size)
    max_rows = _EVALUATED_ROWS if model.layout == "packed" else 1
    yield from rank_batches(sorted(own), lengths, max_rows=max_rows, max_tokens=max_tokens, distributed=distributed)


@dataclass(slots=True)
class without_dropout:  # noqa: N801 - a context manager, read as a word
    """Switch dropout off within the block.

    Only dropout is switched: on a CPU, bitsandbytes 0.50 repacks NF4 weights at the first forward pass of a layer in
    eval mode, and from then on its forward pass has no gradient, even back in training mode.
    """

    model: TrainableModel

    def __enter__(self) -> None:
        self._switch(training=False)

    def __exit__(self, *_: object) -> None:
        self._switch(training=True)

    def _switch(self, *, training: bool) -> None:
        for module in self.model.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train(training)
