"""Agreement and preference against published values."""

import pytest

from trainer.human_eval.judgement import _sign_test, agreement, item_outcomes

# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: sections A (binary, two observers, alpha 0.095),
# B (names, two observers, alpha 0.692) and C (names, four observers, gaps, alpha 0.743).
BINARY = ("0100000010", "1110010000")
NAMES = ("aabbdcccedda", "babbbccceddd")
GAPS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def units(*raters: str) -> list[list[str]]:
    return [[said for said in unit if said != "."] for unit in zip(*raters, strict=True)]


@pytest.mark.parametrize(("raters", "alpha"), [(BINARY, 0.095), (NAMES, 0.692), (GAPS, 0.743)])
def test_alpha_is_what_krippendorff_published(raters: tuple[str, ...], alpha: float) -> None:
    assert agreement(units(*raters)).alpha == pytest.approx(alpha, abs=0.0005)


def test_alpha_is_one_for_raters_who_agree_and_unknown_where_nothing_differs_or_nobody_shares() -> None:
    assert agreement([["a", "a"], ["b", "b"]]).alpha == 1
    assert agreement([["a", "a"], ["a", "a"]]).alpha is None
    assert agreement([["a"], ["b"]]) == agreement([])
    assert agreement([["a", "b"], ["a", "a"], ["c"]]).same == 0.5


def test_the_sign_test_gives_the_textbooks_exact_values() -> None:
    preference, p_value = _sign_test(9, 1)
    assert preference is not None
    assert p_value == pytest.approx(22 / 1024)
    assert preference.interval_95 == pytest.approx((0.5550, 0.9975), abs=0.0001)  # Clopper and Pearson, 9 of 10
    assert _sign_test(0, 0) == (None, None)


def test_an_item_goes_to_whom_most_raters_chose_and_else_to_nobody() -> None:
    votes = {
        "a": {1: "arm", 2: "arm", 3: "arm", 4: "tie"},
        "b": {1: "arm", 2: "against", 3: "tie", 4: "tie"},
        "c": {1: "against", 2: "tie", 4: "against"},
    }
    assert item_outcomes(votes) == {1: "arm", 2: "tie", 3: "tie", 4: "tie"}  # type: ignore[arg-type]
