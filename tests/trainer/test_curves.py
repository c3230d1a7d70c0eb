from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from trainer.training.metrics_log import StepMetrics, save_loss_curve, save_sweep, sparkline

SVG = "{http://www.w3.org/2000/svg}"


def test_a_falling_loss_is_drawn_falling() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0, 0.0]) == "█▆▅▃▁"


def test_a_flat_or_empty_loss_can_be_drawn() -> None:
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(1, 80))
def test_the_curve_is_as_wide_as_asked_or_as_there_are_values(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(width, len(values))


def test_the_loss_curve_is_an_svg_with_and_without_eval_loss(tmp_path: Path) -> None:
    steps = [StepMetrics(i, i / 4, 3.0 - i / 2) for i in range(1, 5)]
    save_loss_curve(tmp_path / "plain.svg", "x", steps)
    save_loss_curve(tmp_path / "both.svg", "x", [StepMetrics(0, 0, eval_loss=3.0), *steps])
    plain, both = (ElementTree.parse(tmp_path / name).getroot() for name in ("plain.svg", "both.svg"))
    assert {plain.tag, both.tag} == {f"{SVG}svg"}
    assert [len(list(picture.iter(f"{SVG}polyline"))) for picture in (plain, both)] == [1, 4], (
        "two of them in the legend"
    )
    assert "eval loss" in {text.text for text in both.iter(f"{SVG}text")}


def test_a_sweep_is_drawn_with_a_line_for_each_rank(tmp_path: Path) -> None:
    points = [(1e-4, 2.0, "r 8"), (2e-4, 1.5, "r 8"), (1e-4, 1.9, "r 16")]
    save_sweep(tmp_path / "one.svg", "x", points[:2])
    save_sweep(tmp_path / "two.svg", "x", points)
    one, two = (ElementTree.parse(tmp_path / name).getroot() for name in ("one.svg", "two.svg"))
    assert [len(list(picture.iter(f"{SVG}polyline"))) for picture in (one, two)] == [1, 4]
    texts = {text.text for text in two.iter(f"{SVG}text")}
    assert {"r 8", "r 16", "0.0001", "0.0002"} <= texts
    assert not any("e-" in (text or "") for text in texts)
