"""The gate: which figures give which verdict, and what is said about each."""

from dataclasses import replace

import pytest

from trainer.eval.report import VerdictWord
from trainer.eval.statistics import MetricEstimate
from trainer.eval.task import GateRules
from trainer.eval.verdict import ClassEvidence, GateEvidence, decide

GOOD = GateEvidence(
    arm="mine",
    against="prompted",
    items=200,
    gain=MetricEstimate(0.2, (0.12, 0.28), 200, 400),
    slices={"a": MetricEstimate(0.1, (0.0, 0.2), 50), "b": MetricEstimate(-0.02, (-0.1, 0.06), 50)},
    classes={"praise": ClassEvidence(MetricEstimate(-0.01, (-0.1, 0.08), 50), 40, 50)},
    stopped=MetricEstimate(-0.01, (-0.03, 0.0), 200),
    forgetting=MetricEstimate(0.05, (0.03, 0.07), 200),
    cost_saving="",
    frozen=True,
)


def test_all_checks_passed_is_promote() -> None:
    gate = decide(GateRules(), GOOD)
    assert gate.verdict == "PROMOTE"
    assert all(check.passed for check in gate.checks)
    assert gate.summary.startswith(
        "Correct rose by 20 points against prompted (+12.0 to +28.0); 5 points were asked for."
    )


@pytest.mark.parametrize(
    ("changed", "word", "said"),
    [
        (
            {"gain": MetricEstimate(0.01, (-0.02, 0.04), 200, 300)},
            "DO_NOT_DEPLOY",
            "short of the 5 points asked for by 4 points",
        ),
        (
            {"gain": MetricEstimate(0.04, (0.01, 0.07), 500, 400)},
            "DO_NOT_DEPLOY",
            "short of the 5 points asked for by 1 point",
        ),
        (
            {"gain": MetricEstimate(0.08, (-0.01, 0.17), 100, 940)},
            "NOT_ENOUGH_ITEMS",
            "100 items cannot tell whether that is",
        ),
        ({"gain": MetricEstimate(0.04, (-0.04, 0.12), 100, 940)}, "NOT_ENOUGH_ITEMS", "about 940 would"),
        ({"gain": MetricEstimate(-1.0, (-1.0, -1.0), 3, 9)}, "NOT_ENOUGH_ITEMS", "3 items cannot tell"),
        (
            {"slices": {"a": MetricEstimate(-0.5, (-0.7, -0.3), 20)}},
            "DO_NOT_DEPLOY",
            "fell by 50 points in the slice a",
        ),
        ({"slices": {"a": MetricEstimate(-0.5, (-0.8, 0.1), 6)}}, "NOT_ENOUGH_ITEMS", "so few items may do that"),
        ({"slices": {"a": MetricEstimate(-1.0, (-1.0, -1.0), 5)}}, "NOT_ENOUGH_ITEMS", "so few items may do that"),
        (
            {"classes": {"complaint": ClassEvidence(MetricEstimate(-0.18, (-0.3, 0.0), 8), 0, 8)}},
            "DO_NOT_DEPLOY",
            "The adapter mine never answers complaint, which 8 items want.",
        ),
        (
            {"classes": {"complaint": ClassEvidence(MetricEstimate(0.0, (0.0, 0.0), 5), 0, 5)}},
            "NOT_ENOUGH_ITEMS",
            "which 5 items want, but so few items may do that",
        ),
        (
            {"classes": {"praise": ClassEvidence(MetricEstimate(-0.2, (-0.3, -0.1), 20), 9, 20)}},
            "DO_NOT_DEPLOY",
            "F1 fell by 20 points in the class praise",
        ),
        ({"stopped": MetricEstimate(-0.05, (-0.09, -0.01), 200)}, "DO_NOT_DEPLOY", "4 points beyond the limit"),
        ({"forgetting": MetricEstimate(0.30, (0.2, 0.4), 200)}, "DO_NOT_DEPLOY", "0.250 beyond the limit"),
        ({"items": 49}, "NOT_ENOUGH_ITEMS", "49 items were asked, fewer than the 50 that a verdict takes; add 1."),
        ({"changed": ("shots",)}, "DO_NOT_DEPLOY", "changed since it was frozen (shots)"),
    ],
)
def test_each_check_can_stop_it_and_says_by_how_much(changed: dict[str, object], word: str, said: str) -> None:
    gate = decide(GateRules(), replace(GOOD, **changed))  # type: ignore[arg-type]
    assert gate.verdict is not None
    assert gate.verdict is VerdictWord(word)
    assert said in gate.summary
    assert sum(check.passed is not True for check in gate.checks) == 1


def test_a_task_that_nobody_froze_is_not_said_to_be_as_it_was_frozen() -> None:
    sentences = {
        frozen: decide(GateRules(), replace(GOOD, frozen=frozen)).checks[0].sentence for frozen in (True, False)
    }
    assert sentences[True] == "The task is what it was when it was frozen."
    assert sentences[False].startswith("The task was never frozen")
    assert decide(GateRules(), replace(GOOD, frozen=False)).verdict == "PROMOTE"


def test_every_threshold_can_be_set() -> None:
    rules = GateRules(least_gain=0.3, slice_fall=0.0, stop_fall=0.0, forgetting=0.0, min_items=500)
    assert [check.name for check in decide(rules, GOOD).checks if check.passed is True] == ["task"]
