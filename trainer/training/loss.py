"""The losses: cross-entropy over loss tokens (supervised) and the DPO loss over preference pairs.

Both are sums over rows, divided by the weight of the whole step, so that neither micro-batches nor ranks change a step.
Cross-entropy and log-probabilities are computed in chunks: only the hidden states of loss tokens go through the output
layer, and gradients are computed in the same pass, so the full logits are never in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from trainer.training.batching import PackedBatch, pack, rank_batches, rank_shard
from trainer.training.distributed import DistributedState
from trainer.training.loss_mask import RenderedExample, RenderedPair
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


class Objective(Protocol):
    """A set of rows and the loss over them, in nats."""

    lengths: list[int]
    """Input tokens of each row."""
    weights: list[float]
    """The contribution of each row to the denominator of the mean."""

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the summed loss of these rows."""
        ...


class SupervisedLoss:
    """Cross-entropy of the loss tokens, times their weights; the mean is over the sum of weights."""

    def __init__(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> None:
        self.lengths = [len(row.input_ids) for row in rows]
        self.weights = [sum(row.loss_weights) or float(row.loss_tokens) for row in rows]
        self._learner, self._rows = model, rows

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the cross-entropy of these rows, summed over their loss tokens."""
        packed = pack([self._rows[row] for row in rows], self._learner.device)
        hidden, head = self._learner.hidden(packed), self._learner.head
        if packed.loss_weights is not None:
            return -(token_logprobs(hidden, head, packed.targets) * packed.loss_weights).sum()
        return summed_cross_entropy(hidden, head, packed.targets)


class DpoLoss:
    """DPO's sigmoid loss; the mean is per pair. The reference is the base without adapter, computed once per pair.

    The ranks of a distributed run share the reference; all of them make the object.
    """

    def __init__(
        self,
        model: TrainableModel,
        pairs: Sequence[RenderedPair],
        *,
        beta: float,
        max_tokens: int,
        distributed: DistributedState = _ALONE,
    ) -> None:
        self.lengths = [len(pair.chosen.input_ids) + len(pair.rejected.input_ids) for pair in pairs]
        self.weights = [pair.weight for pair in pairs]
        self._learner, self._pairs, self._beta = model, pairs, beta
        self._reference = self._reference_margins(max_tokens, distributed)

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the summed loss of these pairs."""
        margins = self._margins(rows) - self._reference[torch.tensor(rows)].to(self._learner.device)
        weights = torch.tensor([self.weights[row] for row in rows], device=margins.device)
        return -(functional.logsigmoid(self._beta * margins) * weights).sum()

    def _margins(self, rows: Sequence[int]) -> torch.Tensor:
        """Return log p(chosen) - log p(rejected) of each pair."""
        sides = [side for row in rows for side in (self._pairs[row].chosen, self._pairs[row].rejected)]
        sums = row_logprobs(self._learner, pack(sides, self._learner.device))
        return sums[0::2] - sums[1::2]

    @torch.no_grad()
    def _reference_margins(self, max_tokens: int, distributed: DistributedState) -> torch.Tensor:
        margins = torch.zeros(len(self._pairs), device=self._learner.device)
        with without_dropout(self._learner), self._learner.without_adapter():
            for rows, counts in _shared_batches(self._learner, self.lengths, max_tokens, distributed):
                found = self._margins(rows)
                if counts:
                    margins[torch.tensor(rows)] = found.float()
        distributed.sum_tensors([margins])  # the other ranks have zeros, so that each sum is exact
        return margins.cpu()


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
        for rows, counts in _shared_batches(model, objective.lengths, max_tokens, distributed):
            loss = float(objective.summed(rows))
            total += loss if counts else 0.0
    return distributed.sum(total) / sum(objective.weights)


def _shared_batches(
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
