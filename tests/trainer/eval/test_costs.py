"""What arms cost, with prices that are there, partly there, or not at all."""

import pytest

from trainer.eval.answers import Answer
from trainer.eval.costs import cost_of, cost_saving
from trainer.eval.report import Arm, ArmCost, ArmKind, Latency, Tokens


def answers(*costs: int | None) -> list[Answer]:
    return [Answer("m", line, "x", "stop", cost_nano_usd=cost) for line, cost in enumerate(costs, 1)]


@pytest.mark.parametrize(
    ("costs", "correct", "expected"),
    [
        ((2_000, 4_000), 1, ArmCost(total=6_000, per_request=3_000, per_correct=6_000)),
        ((None, 4_000), 1, ArmCost(total=None, per_request=4_000, per_correct=8_000)),
        ((2_000, 4_000), 0, ArmCost(total=6_000, per_request=3_000, per_correct=None)),
        ((None, None), 1, ArmCost(total=None, per_request=None, per_correct=None)),
        ((0, 0), 1, ArmCost(total=0, per_request=0, per_correct=0)),
    ],
)
def test_a_missing_price_is_never_taken_for_0(costs: tuple[int | None, ...], correct: int, expected: ArmCost) -> None:
    assert cost_of(answers(*costs), correct) == expected


def test_the_saving_is_stated_beside_every_other_arm() -> None:
    def arm(name: str, cost: ArmCost) -> Arm:
        return Arm(
            name=name,
            kind=ArmKind.ADAPTER,
            model=name,
            digest=None,
            metrics={},
            slices={},
            tokens=Tokens(prompt=0, completion=0),
            latency_ms=Latency(p50=0, p95=0),
            cost_nano_usd=cost,
        )

    mine = arm("mine", ArmCost(total=None, per_request=3_000, per_correct=6_000))
    prompted = arm("prompted", ArmCost(total=None, per_request=4_000, per_correct=None))
    unknown = arm("frontier", ArmCost(total=None, per_request=None, per_correct=None))
    assert cost_saving(mine, [prompted, unknown]) == (
        "1,000 requests cost $0.0030 with mine, 1,000 right answers $0.0060; prompted $0.0040, which was never right "
        "(25% less with the candidate); frontier has no price."
    )
    assert "is unknown" in cost_saving(unknown, [mine])
