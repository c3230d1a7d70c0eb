"""The weights of messages and rows are factors of their losses."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.trainer.training.conftest import MakeModel
from trainer.data.schema import Example, Message
from trainer.training.loss import SupervisedLoss
from trainer.training.loss_mask import RenderedExample, Renderer

pytestmark = pytest.mark.numeric


def example(first: float, last: float, row: float = 1) -> Example:
    turns = (
        Message("user", "Where is order 7?"),
        Message("assistant", "It is late.", weight=first),
        Message("user", "Why?"),
        Message("assistant", "Snow, seven days of it.", weight=last),
    )
    return Example(1, turns, weight=row)


def summed(model: object, rows: Sequence[RenderedExample]) -> tuple[float, float]:
    """Return the summed loss of rows in one pack, and the denominator of their mean."""
    loss = SupervisedLoss(model, rows)  # type: ignore[arg-type]
    return loss.summed(range(len(rows))).item(), sum(loss.weights)


def test_a_weighted_loss_is_the_weighted_sum_of_its_answers_losses(renderer: Renderer, make_model: MakeModel) -> None:
    model = make_model()
    (first, first_tokens), (last, last_tokens) = (
        summed(model, [renderer.render(example(*weights))]) for weights in ((1, 0), (0, 1))
    )
    weighted, denominator = summed(model, [renderer.render(example(0.5, 2, row=3))])
    # fp32 sums of some tens of losses of a few nats
    assert weighted == pytest.approx(1.5 * first + 6 * last, rel=1e-5)
    assert denominator == pytest.approx(1.5 * first_tokens + 6 * last_tokens)


def test_a_weighted_row_among_others_changes_only_its_own_part(
    renderer: Renderer, rows: Sequence[RenderedExample], make_model: MakeModel
) -> None:
    model = make_model()
    plain = renderer.render(example(1, 1))
    doubled = replace(plain, loss_weights=(2.0,) * plain.loss_tokens)
    others, alone = summed(model, rows[:3])[0], summed(model, [plain])[0]
    assert summed(model, [*rows[:3], doubled])[0] == pytest.approx(others + 2 * alone, rel=1e-5)
    assert renderer.render(example(1, 1, row=2)) == doubled
