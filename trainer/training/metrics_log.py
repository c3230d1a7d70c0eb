"""The loss of a run, made visible: one record per logged step, a picture, and a line of blocks for the terminal.

Watching a run: every logged step goes to metrics.jsonl as it happens, to the progress display, and to trackers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.files import disk
from trainer.training.progress import TrainingProgress
from turntable.pages.charts import Axis, Series, lines
from turntable.pages.svg import Drawing

if TYPE_CHECKING:
    from trainer.training.checkpoint import LoopState


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
    """Draw the training loss and the eval loss over steps into an SVG file."""
    series = [
        Series("training loss", [(m.step, m.loss) for m in metrics if m.loss is not None], has_markers=False),
        Series("eval loss", [(m.step, m.eval_loss) for m in metrics if m.eval_loss is not None]),
    ]
    _save(path, lines(f"Loss of {title}", Axis("step"), Axis("loss, nats per token"), series))


def save_sweep(path: Path, title: str, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw the eval loss of a sweep's trials over their learning rates into an SVG file, one line for each label."""
    series = [
        Series(label, sorted((rate, loss) for rate, loss, of in points if of == label))
        for label in dict.fromkeys(label for _, _, label in points)
    ]
    y = Axis("eval loss, nats per token", low=min(loss for _, loss, _ in points))
    _save(path, lines(f"Sweep of {title}", Axis("learning rate", is_log=True), y, series))


def _save(path: Path, drawing: Drawing | None) -> None:
    path.write_text(drawing.file() if drawing else "", encoding="utf-8")


METRICS_FILE = "metrics.jsonl"
_LOGGED_STEPS = 200


class Recorder:
    """Collects `metrics` in the order they were logged; each is on disk before the next step begins.

    `track` is told every logged figure as well, by name and step.
    """

    def __init__(
        self,
        folder: Path,
        progress: TrainingProgress,
        track: Callable[[dict[str, float], int], None] = lambda figures, step: None,
    ) -> None:
        self.metrics: list[StepMetrics] = []
        self._path = folder / METRICS_FILE
        self._progress, self._track = progress, track
        self._steps = self._log_every = 1

    def began(self, state: "LoopState", steps: int) -> None:
        """Take over what was logged up to a checkpoint; later lines of the interrupted run are dropped."""
        self._steps, self._log_every = steps, max(1, steps // _LOGGED_STEPS)
        held_out = len(state.losses or ())
        for step in read_metrics(self._path) if state.step or held_out else ():
            held_out -= step.eval_loss is not None
            if step.step <= state.step and held_out >= 0:
                self.metrics.append(step)
        write_metrics(self._path.parent, self.metrics)
        if state.step:
            self._progress.resumed(state.step, steps)

    def stepped(self, state: "LoopState", *, epoch: float, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Log the step, unless so many are taken that only some are logged."""
        self._progress.step(state.step, self._steps, loss=loss, tokens_per_s=_speed(state))
        if state.step % self._log_every and state.step != self._steps:
            return
        self._write(state, epoch=epoch, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm)

    def evaluated(self, state: "LoopState", *, epoch: int, loss: float) -> None:
        """Log a held-out loss."""
        left_s = state.steps_s / state.step * (self._steps - state.step) if state.step else None
        self._progress.epoch(epoch, loss, tokens_per_s=_speed(state), left_s=left_s)
        self._write(state, epoch=float(epoch), eval_loss=loss)

    def _write(self, state: "LoopState", *, epoch: float, **figures: float) -> None:
        rounded: dict[str, Any] = {name: round(value, 6) for name, value in figures.items() if name != "learning_rate"}
        rounded |= {"learning_rate": figures["learning_rate"]} if "learning_rate" in figures else {}
        step = StepMetrics(
            step=state.step,
            epoch=round(epoch, 4),
            tokens=state.input_tokens,
            tokens_per_s=round(_speed(state), 1),
            **rounded,
        )
        self.metrics.append(step)
        with disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(step))
        self._track({**figures, "tokens_per_s": _speed(state)}, state.step)


class Silence:
    """Watches nothing: for the processes of a distributed run that are not the first."""

    def began(self, state: "LoopState", steps: int) -> None:
        """Say nothing."""

    def stepped(self, state: "LoopState", *, epoch: float, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Say nothing."""

    def evaluated(self, state: "LoopState", *, epoch: int, loss: float) -> None:
        """Say nothing."""


def read_metrics(path: Path) -> list[StepMetrics]:
    """The steps logged in a file; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [StepMetrics(**json.loads(line)) for line in lines[:-1]]


def write_metrics(folder: Path, metrics: Sequence[StepMetrics]) -> None:
    """Write metrics.jsonl anew."""
    with disk(folder):
        (folder / METRICS_FILE).write_text("".join(map(_line, metrics)), encoding="utf-8")


def _line(step: StepMetrics) -> str:
    return json.dumps(asdict(step)) + "\n"


def _speed(state: "LoopState") -> float:
    return state.input_tokens / state.steps_s if state.steps_s else 0.0
