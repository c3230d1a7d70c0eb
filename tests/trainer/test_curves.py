from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trainer.training.metrics_log import StepMetrics, save_loss_curve, save_sweep, sparkline


def test_a_falling_loss_is_drawn_falling() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0, 0.0]) == "█▆▅▃▁"


def test_a_flat_or_empty_loss_can_be_drawn() -> None:
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(1, 80))
def test_the_curve_is_as_wide_as_asked_or_as_there_are_values(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(width, len(values))


def test_the_picture_is_a_png_with_and_without_held_out_loss(tmp_path: Path) -> None:
    steps = [StepMetrics(i, i / 4, 3.0 - i / 2) for i in range(1, 5)]
    save_loss_curve(tmp_path / "plain.png", "x", steps)
    save_loss_curve(tmp_path / "both.png", "x", [StepMetrics(0, 0, eval_loss=3.0), *steps])
    pictures = [(tmp_path / name).read_bytes() for name in ("plain.png", "both.png")]
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in pictures)
    assert pictures[0] != pictures[1]


def test_a_sweep_is_drawn_with_a_line_for_each_rank(tmp_path: Path) -> None:
    points = [(1e-4, 2.0, "r 8"), (2e-4, 1.5, "r 8"), (1e-4, 1.9, "r 16")]
    save_sweep(tmp_path / "one.png", "x", points[:2])
    save_sweep(tmp_path / "two.png", "x", points)
    pictures = [(tmp_path / name).read_bytes() for name in ("one.png", "two.png")]
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in pictures)
    assert pictures[0] != pictures[1]
