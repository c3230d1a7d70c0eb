"""The loss of a run, made visible: one record per logged step, a picture, and a line of blocks for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One logged step; `loss` and what belongs to it are None where only the held-out loss was taken, and vice versa.

    `tokens` counts all tokens trained on so far, without any padding.
    """

    step: int
    epoch: float
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Values as a row of at most `width` blocks, each the mean of its share, the tallest being the largest."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(_BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1))] for mean in means)


def save_loss_curve(path: Path, title: str, metrics: Sequence[StepMetrics]) -> None:
    """Draw training and held-out loss over steps into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title=title)
    trained = [(m.step, m.loss) for m in metrics if m.loss is not None]
    held_out = [(m.step, m.eval_loss) for m in metrics if m.eval_loss is not None]
    axes.plot(*zip(*trained, strict=True), label="training", color="tab:blue", linewidth=1)
    if held_out:
        axes.plot(*zip(*held_out, strict=True), label="held out", color="tab:orange", marker="o")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def save_sweep(path: Path, title: str, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw the held-out loss of a sweep's trials over their learning rates into a PNG, one line for each label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="learning rate", ylabel="held-out loss", title=title, xscale="log")
    for label in dict.fromkeys(label for _, _, label in points):
        line = sorted((rate, loss) for rate, loss, of in points if of == label)
        axes.plot(*zip(*line, strict=True), label=label, marker="o", linewidth=1)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
