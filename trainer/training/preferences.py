"""The losses over judged answers: DPO and ORPO over preference pairs, KTO over answers that are good or bad.

Log-probabilities are summed over the loss tokens of an answer, in fp32. A reward is `beta` times what training added to
that sum, compared with a reference: the model before training, so the base, or the adapter that `[lora] init` names.
ORPO has no reference; its reward is `beta` times the mean log-probability.

Sources: DPO, https://arxiv.org/abs/2305.18290; ORPO, https://arxiv.org/abs/2403.07691; KTO,
https://arxiv.org/abs/2402.01306.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from trainer.training.batching import pack
from trainer.training.distributed import DistributedState
from trainer.training.loss import RewardSums, row_logprobs, shared_batches, without_dropout
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, RenderedPair, RenderedRating
from trainer.training.model import TrainableModel

# Where an answer is certain, its odds are not finite.
_LARGEST_LOGPROB = -1e-6


@dataclass(frozen=True, slots=True)
class Reference:
    """How log-probabilities of the model before training are computed, shared out among the ranks.

    `is_adapter` says that it is the adapter as it is now, not the base without it; `max_tokens` is of a micro-batch.
    """

    max_tokens: int
    is_adapter: bool = False
    distributed: DistributedState = field(default_factory=DistributedState)

    def logprobs(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
        """Return the summed log-probability of each row by the reference, on the CPU; all ranks call it."""
        with nullcontext() if self.is_adapter else model.without_adapter():
            return self.logprobs_now(model, rows)

    @torch.no_grad()
    def logprobs_now(self, model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
        """Return the same by the model as it is now."""
        found = torch.zeros(len(rows), device=model.device)
        lengths = [row.tokens for row in rows]
        with without_dropout(model):
            for some, counts in shared_batches(model, lengths, self.max_tokens, self.distributed):
                logprobs = _logprobs(model, [rows[row] for row in some])
                if counts:
                    found[torch.tensor(some)] = logprobs
        self.distributed.sum_tensors([found])  # a row is 0 on all ranks but one, so the sums are exact
        return found.cpu()


class DpoLoss:
    """DPO's sigmoid loss; the mean is per pair."""

    def __init__(
        self, model: TrainableModel, pairs: Sequence[RenderedPair], *, beta: float, reference: Reference
    ) -> None:
        self.lengths, self.weights, self.rewards = _lengths(pairs), [pair.weight for pair in pairs], _pair_rewards()
        self._learner, self._pairs, self._beta = model, pairs, beta
        self._reference = reference.logprobs(model, _sides(pairs, range(len(pairs)))).view(-1, 2)

    def begin_step(self, rows: Sequence[int]) -> None:
        """Do nothing: pairs are independent."""

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        """Return the summed loss of these pairs."""
        logprobs = _logprobs(self._learner, _sides(self._pairs, rows)).view(-1, 2)
        rewards = self._beta * (logprobs - self._reference[torch.tensor(rows)].to(logprobs.device))
        weights = torch.tensor([self.weights[row] * counts for row in rows], device=rewards.device)
        _add_pairs(self.rewards, rewards, weights)
        return -(functional.logsigmoid(rewards[:, 0] - rewards[:, 1]) * weights).sum()


class OrpoLoss:
    """ORPO: the chosen answer's cross-entropy per token, and `beta` times the log-sigmoid of the log odds ratio.

    The mean is per pair. No reference is needed, so it trains an adapter on a base in one run instead of two.
    """

    def __init__(self, model: TrainableModel, pairs: Sequence[RenderedPair], *, beta: float) -> None:
        self.lengths, self.weights, self.rewards = _lengths(pairs), [pair.weight for pair in pairs], _pair_rewards()
        self._learner, self._pairs, self._beta = model, pairs, beta

    def begin_step(self, rows: Sequence[int]) -> None:
        """Do nothing: pairs are independent."""

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        """Return the summed loss of these pairs."""
        sides = _sides(self._pairs, rows)
        tokens = torch.tensor([side.loss_tokens for side in sides], device=self._learner.device)
        means = (_logprobs(self._learner, sides) / tokens).view(-1, 2)
        bounded = means.clamp(max=_LARGEST_LOGPROB)
        odds = bounded - torch.log(-torch.expm1(bounded))
        weights = torch.tensor([self.weights[row] * counts for row in rows], device=means.device)
        _add_pairs(self.rewards, self._beta * means, weights)
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

    That is the KL divergence, estimated on each step's prompts with the answer to another prompt, as in the paper; it
    is always that of the next row with another prompt, so that micro-batches and ranks do not change a step. The mean
    is per row.
    """

    def __init__(
        self, model: TrainableModel, rows: Sequence[RenderedRating], *, kto: KtoWeights, reference: Reference
    ) -> None:
        self.lengths, self.weights = [row.tokens for row in rows], [row.weight for row in rows]
        self.rewards = RewardSums("chosen", "rejected")
        self._learner, self._rows, self._kto, self._reference = model, rows, kto, reference
        self._others = _mismatched([row.answer for row in rows])
        self._before = reference.logprobs(model, [row.answer for row in rows])
        self._before_of_others = reference.logprobs(model, self._others)
        self._divergence = 0.0

    def begin_step(self, rows: Sequence[int]) -> None:
        """Estimate the divergence on these rows; all ranks call it."""
        now = self._reference.logprobs_now(self._learner, [self._others[row] for row in rows])
        self._divergence = max(0.0, float((now - self._before_of_others[torch.tensor(rows)]).mean()))

    def summed(self, rows: Sequence[int], *, counts: bool = True) -> torch.Tensor:
        """Return the summed loss of these rows, with the divergence of their step."""
        kto = self._kto
        logprobs = _logprobs(self._learner, [self._rows[row].answer for row in rows])
        rewards = kto.beta * (logprobs - self._before[torch.tensor(rows)].to(logprobs.device))
        good = torch.tensor([self._rows[row].is_good for row in rows], device=rewards.device)
        weights = torch.tensor([self.weights[row] * counts for row in rows], device=rewards.device)
        self.rewards.add("chosen", rewards, weights * good)
        self.rewards.add("rejected", rewards, weights * ~good)
        gains = rewards - kto.beta * self._divergence
        values = torch.sigmoid(torch.where(good, gains, -gains))
        factors = torch.where(good, kto.desirable_weight, kto.undesirable_weight)
        return ((1 - values) * factors * weights).sum()


def _logprobs(model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
    return row_logprobs(model, pack(rows, model.device))


def _sides(pairs: Sequence[RenderedPair], rows: Sequence[int]) -> list[RenderedExample]:
    return [side for row in rows for side in (pairs[row].chosen, pairs[row].rejected)]


def _lengths(pairs: Sequence[RenderedPair]) -> list[int]:
    return [pair.chosen.tokens + pair.rejected.tokens for pair in pairs]


def _pair_rewards() -> RewardSums:
    return RewardSums("chosen", "rejected", "accuracy")


def _add_pairs(sums: RewardSums, rewards: torch.Tensor, weights: torch.Tensor) -> None:
    """Add the rewards of pairs, (pairs, 2), the chosen answer first."""
    sums.add("chosen", rewards[:, 0], weights)
    sums.add("rejected", rewards[:, 1], weights)
    sums.add("accuracy", (rewards[:, 0] > rewards[:, 1]).float(), weights)


def _mismatched(rows: Sequence[RenderedExample]) -> list[RenderedExample]:
    """Return each prompt with the answer of the next row with another prompt, cut to the longest of the rows.

    Where all rows have one prompt, with the answer of the next row.
    """
    starts = [next(at for at, label in enumerate(row.labels) if label != IGNORE_INDEX) for row in rows]
    prompts = [tuple(row.input_ids[:start]) for row, start in zip(rows, starts, strict=True)]
    longest, count, found = max(row.tokens for row in rows), len(rows), []
    following = [(at + 1) % count for at in range(count)]
    # Backwards, the row after this one knows its next row with another prompt; twice, for rows at the end.
    for at in [*range(count - 1, -1, -1)] * 2 if len(set(prompts)) > 1 else ():
        if prompts[following[at]] == prompts[at]:
            following[at] = following[following[at]]
    for row, start, at in zip(rows, starts, following, strict=True):
        ids = [*row.input_ids[:start], *rows[at].input_ids[starts[at] :]][:longest]
        labels = [*[IGNORE_INDEX] * start, *rows[at].labels[starts[at] :]][:longest]
        found.append(RenderedExample(row.line, row.row_id, "", ids, labels, ()))
    return found
