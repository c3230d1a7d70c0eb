"""The losses over judged answers: DPO and ORPO over preference pairs, KTO over answers that are good or bad.

Log-probabilities are summed over the loss tokens of an answer, in fp32. A reward is `beta` times what training added to
that sum, compared with a reference: the model before training, so the base, or the adapter that `[lora] init` names.
ORPO has no reference; its reward is `beta` times the mean log-probability.

Sources: DPO, https://arxiv.org/abs/2305.18290; ORPO, https://arxiv.org/abs/2403.07691; KTO,
https://arxiv.org/abs/2402.01306.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional

from trainer.training.batching import micro_batches, pack, rank_shard
from trainer.training.distributed import DistributedState
from trainer.training.loss import RewardSums, row_logprobs, without_dropout
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, RenderedPair, RenderedRating
from trainer.training.model import TrainableModel

_MAX_ROWS = 64
# Where an answer is certain, its odds are not finite.
_LARGEST_LOGPROB = -1e-6


@dataclass(frozen=True, slots=True)
class Reference:
    """How log-probabilities of the model before training are computed.

    `is_adapter` says that it is the adapter as it is now, not the base without it; `max_tokens` is of a micro-batch.
    """

    max_tokens: int
    is_adapter: bool = False

    @torch.no_grad()
    def logprobs(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
        """Return the summed log-probability of each row, on the CPU."""
        found = torch.zeros(len(rows))
        lengths = [row.tokens for row in rows]
        with without_dropout(model), nullcontext() if self.is_adapter else model.without_adapter():
            for some in micro_batches(range(len(rows)), lengths, max_rows=_MAX_ROWS, max_tokens=self.max_tokens):
                found[torch.tensor(some)] = _logprobs(model, [rows[row] for row in some]).cpu()
        return found


class DpoLoss:
    """DPO's sigmoid loss; the mean is per pair."""

    def __init__(
        self, model: TrainableModel, pairs: Sequence[RenderedPair], *, beta: float, reference: Reference
    ) -> None:
        self.lengths, self.weights = _of_pairs(pairs)
        self._learner, self._pairs, self._beta = model, pairs, beta
        sides = reference.logprobs(model, [side for pair in pairs for side in (pair.chosen, pair.rejected)])
        self._reference, self._rewards = sides.view(-1, 2), RewardSums()

    def begin_step(self, rows: Sequence[int]) -> None:
        """Do nothing: pairs are independent."""

    def take_rewards(self) -> dict[str, tuple[float, float]]:
        """Return sum and weight of each reward since the last call."""
        return self._rewards.take()

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the summed loss of these pairs."""
        logprobs = _logprobs(self._learner, _sides(self._pairs, rows)).view(-1, 2)
        rewards = self._beta * (logprobs - self._reference[torch.tensor(rows)].to(logprobs.device))
        weights = torch.tensor([self.weights[row] for row in rows], device=rewards.device)
        self._rewards.add_pairs(rewards, weights)
        return -(functional.logsigmoid(rewards[:, 0] - rewards[:, 1]) * weights).sum()


class OrpoLoss:
    """ORPO: the chosen answer's cross-entropy per token, and `beta` times the log-sigmoid of the log odds ratio.

    The mean is per pair. No reference is needed, so it trains an adapter on a base in one run instead of two.
    """

    def __init__(self, model: TrainableModel, pairs: Sequence[RenderedPair], *, beta: float) -> None:
        self.lengths, self.weights = _of_pairs(pairs)
        self._learner, self._pairs, self._beta, self._rewards = model, pairs, beta, RewardSums()

    def begin_step(self, rows: Sequence[int]) -> None:
        """Do nothing: pairs are independent."""

    def take_rewards(self) -> dict[str, tuple[float, float]]:
        """Return sum and weight of each reward since the last call."""
        return self._rewards.take()

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the summed loss of these pairs."""
        sides = _sides(self._pairs, rows)
        tokens = torch.tensor([side.loss_tokens for side in sides], device=self._learner.device)
        means = (_logprobs(self._learner, sides) / tokens).view(-1, 2)
        bounded = means.clamp(max=_LARGEST_LOGPROB)
        odds = bounded - torch.log(-torch.expm1(bounded))
        weights = torch.tensor([self.weights[row] for row in rows], device=means.device)
        self._rewards.add_pairs(self._beta * means, weights)
        preference = functional.logsigmoid(odds[:, 0] - odds[:, 1])
        return -((means[:, 0] + self._beta * preference) * weights).sum()


@dataclass(frozen=True, slots=True)
class KtoWeights:
    """KTO's settings, under TRL's names."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


class KtoLoss:
    """KTO: the value of good and bad answers, relative to how far the model departed from the reference in general.

    That is the KL divergence, estimated on each step's prompts with the answer of another row, as in the paper; the
    other row is always the next one of the file, so that micro-batches and ranks do not change a step. The mean is per
    row.
    """

    def __init__(
        self,
        model: TrainableModel,
        rows: Sequence[RenderedRating],
        *,
        kto: KtoWeights,
        reference: Reference,
        distributed: DistributedState | None = None,
    ) -> None:
        self.lengths = [row.answer.tokens for row in rows]
        self.weights = [row.weight for row in rows]
        self._learner, self._rows, self._kto = model, rows, kto
        self._distributed = distributed or DistributedState()
        self._others = [_with_answer_of(row.answer, rows[(at + 1) % len(rows)].answer) for at, row in enumerate(rows)]
        self._max_tokens, self._rewards = reference.max_tokens, RewardSums()
        self._reference = reference.logprobs(model, [row.answer for row in rows])
        self._reference_of_others = reference.logprobs(model, self._others)
        self._divergence = 0.0

    @torch.no_grad()
    def begin_step(self, rows: Sequence[int]) -> None:
        """Estimate the divergence on these rows, shared out among the ranks; all ranks call it."""
        lengths, distributed = [row.tokens for row in self._others], self._distributed
        # A pass of a sharded base gathers its layers from all ranks, so every rank makes all of them.
        is_shared = not distributed.fsdp
        own = rank_shard(rows, lengths, rank=distributed.rank, world_size=distributed.world_size) if is_shared else rows
        total = 0.0
        with without_dropout(self._learner):
            for some in micro_batches(own, lengths, max_rows=_MAX_ROWS, max_tokens=self._max_tokens):
                logprobs = _logprobs(self._learner, [self._others[row] for row in some]).cpu()
                total += float((logprobs - self._reference_of_others[torch.tensor(some)]).sum())
        total = distributed.sum(total) if is_shared else total
        self._divergence = max(0.0, total / len(rows))

    def take_rewards(self) -> dict[str, tuple[float, float]]:
        """Return sum and weight of each reward since the last call."""
        return self._rewards.take()

    def summed(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the summed loss of these rows, with the divergence of their step."""
        kto = self._kto
        logprobs = _logprobs(self._learner, [self._rows[row].answer for row in rows])
        rewards = kto.beta * (logprobs - self._reference[torch.tensor(rows)].to(logprobs.device))
        good = torch.tensor([self._rows[row].is_good for row in rows], device=rewards.device)
        weights = torch.tensor([self.weights[row] for row in rows], device=rewards.device)
        self._rewards.add("chosen", rewards, weights * good)
        self._rewards.add("rejected", rewards, weights * ~good)
        gains = rewards - kto.beta * self._divergence
        values = torch.sigmoid(torch.where(good, gains, -gains))
        factors = torch.where(good, kto.desirable_weight, kto.undesirable_weight)
        return ((1 - values) * factors * weights).sum()


def _logprobs(model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
    return row_logprobs(model, pack(rows, model.device))


def _sides(pairs: Sequence[RenderedPair], rows: Sequence[int]) -> list[RenderedExample]:
    return [side for row in rows for side in (pairs[row].chosen, pairs[row].rejected)]


def _of_pairs(pairs: Sequence[RenderedPair]) -> tuple[list[int], list[float]]:
    """Return the input tokens and the weight of each pair."""
    lengths = [pair.chosen.tokens + pair.rejected.tokens for pair in pairs]
    return lengths, [pair.weight for pair in pairs]


def _with_answer_of(row: RenderedExample, other: RenderedExample) -> RenderedExample:
    """Return the prompt of one row with the answer of another."""
    prompt, before = _prompt_tokens(row), _prompt_tokens(other)
    ids = [*row.input_ids[:prompt], *other.input_ids[before:]]
    labels = [*[IGNORE_INDEX] * prompt, *other.labels[before:]]
    return RenderedExample(row.line, row.row_id, "", ids, labels, ())


def _prompt_tokens(row: RenderedExample) -> int:
    return next(index for index, label in enumerate(row.labels) if label != IGNORE_INDEX)
