"""ORPO and KTO are the papers' formulas, computed by the library row by row over the full logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.trainer.training.conftest import MakeModel
from trainer.data.schema import Example, Message
from trainer.training.attention import PACKED
from trainer.training.loss import evaluate_loss
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample, RenderedPair, RenderedRating, Renderer
from trainer.training.model import EAGER, TrainableModel
from trainer.training.preferences import KtoLoss, KtoWeights, OrpoLoss, Reference, _mismatched

pytestmark = pytest.mark.numeric
BETA = 0.3


@pytest.fixture
def answers(renderer: Renderer) -> list[RenderedExample]:
    """Six questions with answers of 4 to 90 tokens."""
    return [
        renderer.render(
            Example(n, (Message("user", f"Where is order {n}?"), Message("assistant", f"Order {n} is late. " * n)))
        )
        for n in range(1, 7)
    ]


def pairs(answers: Sequence[RenderedExample]) -> list[RenderedPair]:
    return [RenderedPair(answers[at], answers[at + 3], str(at), weight) for at, weight in enumerate((1.0, 2.0, 0.5))]


def ratings(answers: Sequence[RenderedExample]) -> list[RenderedRating]:
    return [RenderedRating(one, at % 3 != 0, str(at), 1.0 + at % 2) for at, one in enumerate(answers)]


def plain_logprob(model: TrainableModel, ids: list[int], labels: list[int]) -> torch.Tensor:
    """log p of the labelled tokens, by the library's own forward pass."""
    logits = model.base(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return torch.stack([logits[i - 1, ids[i]] for i, label in enumerate(labels) if label != IGNORE_INDEX]).sum()


def plain(model: TrainableModel, rows: Sequence[RenderedExample]) -> torch.Tensor:
    model.base.set_attn_implementation(EAGER)
    found = torch.stack([plain_logprob(model, row.input_ids, row.labels) for row in rows])
    model.base.set_attn_implementation(PACKED)
    return found


def gradients(model: TrainableModel, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.trainable_parameters.values()))
    return torch.cat([one.flatten() for one in found])


def assert_same(model: TrainableModel, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # Sums over some 90 tokens of log-probabilities around 5, each rounded to 1e-6 in fp32.
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    mine, other = gradients(model, ours), gradients(model, theirs)
    assert torch.allclose(mine, other, rtol=1e-2, atol=1e-4 * float(other.abs().max()))


def test_orpo_is_cross_entropy_and_the_log_odds_ratio_of_mean_log_probabilities(
    make_model: MakeModel, answers: list[RenderedExample]
) -> None:
    model, chosen = make_model(), pairs(answers)
    ours = OrpoLoss(model, chosen, beta=BETA)
    losses = []
    for pair in chosen:
        sides = (pair.chosen, pair.rejected)
        good, bad = (plain(model, [side])[0] / side.loss_tokens for side in sides)
        ratio = (good.exp() / (1 - good.exp())).log() - (bad.exp() / (1 - bad.exp())).log()
        losses.append(pair.weight * (-good - BETA * logsigmoid(ratio)))
    assert_same(model, ours.summed(range(3)), torch.stack(losses).sum())
    assert ours.weights == [1.0, 2.0, 0.5]


def test_orpo_of_an_answer_that_is_certain_is_finite(make_model: MakeModel, answers: list[RenderedExample]) -> None:
    ours = OrpoLoss(make_model(), pairs(answers), beta=BETA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "trainer.training.preferences._logprobs", lambda model, rows: torch.zeros(len(rows), requires_grad=True)
        )
        loss = ours.summed([0])
    assert loss.isfinite()


def mismatched(rows: Sequence[RenderedRating]) -> list[RenderedExample]:
    """Each prompt with the answer of the next row."""
    found = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        answer = other.answer.input_ids[-other.loss_tokens :]
        ids = row.answer.input_ids[: -row.loss_tokens] + answer
        labels = [IGNORE_INDEX] * (len(ids) - len(answer)) + answer
        found.append(RenderedExample(0, "", "", ids, labels, ()))
    return found


def plain_kto(
    model: TrainableModel, rows: Sequence[RenderedRating], before: torch.Tensor, kto: KtoWeights
) -> torch.Tensor:
    """The paper's loss over one step of all rows; `before` has the reference's answers, then the mismatched ones."""
    with torch.no_grad():
        divergence = (plain(model, mismatched(rows)) - before[len(rows) :]).mean().clamp(min=0)
    losses = []
    for row, ratio in zip(rows, plain(model, [row.answer for row in rows]) - before[: len(rows)], strict=True):
        gain = kto.beta * (ratio - divergence)
        value = gain.sigmoid() if row.is_good else (-gain).sigmoid()
        factor = kto.desirable_weight if row.is_good else kto.undesirable_weight
        losses.append(row.weight * factor * (1 - value))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("is_adapter", [False, True])
@pytest.mark.parametrize("towards", [-1.0, 1.0])
def test_kto_values_answers_against_the_divergence_from_the_reference(
    make_model: MakeModel, answers: list[RenderedExample], towards: float, *, is_adapter: bool
) -> None:
    model, rows, kto = make_model(strength=0.05 if is_adapter else 0.0), ratings(answers), KtoWeights(0.01, 1.0, 1.5)
    with torch.no_grad():
        before = plain(model, [*answers, *mismatched(rows)])
    ours = KtoLoss(model, rows, kto=kto, reference=Reference(4096, is_adapter=is_adapter))
    parameters = list(model.trainable_parameters.values())
    steepest = torch.autograd.grad(plain(model, mismatched(rows)).sum(), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, steepest, strict=True):
            parameter.add_(gradient.sign(), alpha=1e-3 * towards)
    ours.begin_step(range(6))
    assert ours._divergence > 0.1 if towards > 0 else ours._divergence == 0
    together = ours.summed(range(6))
    assert_same(model, together, plain_kto(model, rows, before, kto))
    in_parts = ours.summed([0, 1]) + ours.summed([2, 3, 4]) + ours.summed([5])
    assert in_parts.item() == pytest.approx(together.item(), rel=1e-4), "micro-batches do not change a step"


def test_the_divergence_is_estimated_on_answers_to_other_prompts(answers: list[RenderedExample]) -> None:
    one, two, three, *_ = answers
    twice = replace(one, input_ids=[*one.input_ids[:-2], *two.input_ids[-2:]])  # another answer to the prompt of one
    found = _mismatched([one, twice, two, three, twice, one])
    assert [row.input_ids[: -row.loss_tokens] for row in found] == [
        row.input_ids[: -row.loss_tokens] for row in (one, one, two, three, one, one)
    ]
    whole = [other.input_ids[-other.loss_tokens :] for other in (two, two, three, twice, two, two)]
    longest = max(row.tokens for row in (one, twice, two, three))
    assert all(row.tokens <= longest for row in found)
    assert [row.input_ids[-row.loss_tokens :] == answer for row, answer in zip(found, whole, strict=True)]
    assert len(_mismatched([one, twice])) == 2


@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_rewards_are_means_of_the_rows_and_are_taken_once(
    make_model: MakeModel, answers: list[RenderedExample], method: str
) -> None:
    model = make_model(strength=0.0)
    ours: Any = OrpoLoss(model, pairs(answers), beta=BETA)
    if method == "kto":
        ours = KtoLoss(model, ratings(answers), kto=KtoWeights(), reference=Reference(4096))
    loss = evaluate_loss(model, ours, max_tokens=4096)
    rewards = {name: total / weight for name, (total, weight) in ours.rewards.take().items() if weight}
    if method == "kto":
        assert loss == pytest.approx(0.5, abs=1e-4), "untrained, every answer has half its value"
        assert rewards == pytest.approx({"chosen": 0.0, "rejected": 0.0}, abs=1e-4)
    else:
        assert 0 <= rewards["accuracy"] <= 1
        assert rewards["chosen"] < 0
    assert all(weight == 0 for _, weight in ours.rewards.take().values())
