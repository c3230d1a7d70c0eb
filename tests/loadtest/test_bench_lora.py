"""The table of `bench-lora`: ratios of rounds, intervals of their median, and bars that can be missed."""

from math import comb

import pytest

from loadtest.bench.lora import BARS, CASES, PHASES, LoraResult, median_interval, table

FIGURES = {"no LoRA": 100.0, "base": 90.0, "one adapter": 81.0, "8 adapters": 54.0}


def result(**changed: list[float]) -> LoraResult:
    """Three rounds of every case in which every bar is met, but for what is changed in all phases."""
    return LoraResult(
        {phase: {case: changed.get(case.replace(" ", "_"), [FIGURES[case]] * 3) for case in CASES} for phase in PHASES}
    )


def test_ratios_are_taken_within_a_round_and_the_table_says_what_is_met() -> None:
    found = result(one_adapter=[45.0, 81.0, 81.0])
    assert found.ratios(BARS[0]) == [0.5, 0.9, 0.9]
    assert found.are_bars_met
    text = table(found)
    assert "| prefill: one adapter over base | ≥ 0.75 | 0.90 | 0.50 to 0.90 | met |" in text
    assert "| single decode | 100 | 90 | 81 | 54 |" in text
    assert "missed" not in text


def test_a_median_below_its_bar_is_missed() -> None:
    found = result(base=[80.0, 80.0, 100.0])
    assert not found.are_bars_met
    assert "| prefill: base over no LoRA | ≥ 0.85 | 0.80 | 0.80 to 1.00 | missed |" in table(found)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 20])
def test_the_interval_leaves_the_median_out_in_at_most_five_of_a_hundred_cases(count: int) -> None:
    low, high = median_interval(range(count))
    assert (low + high) == count - 1, "as many samples are cut on either side"
    cut = int(low)
    outside = 2 * sum(comb(count, below) for below in range(cut)) / 2**count  # fewer than `cut + 1` below the median
    assert outside + (2 * comb(count, cut) / 2**count if cut else 0) <= 0.05 or cut == 0
