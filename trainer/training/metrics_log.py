"""Log the metrics of a run: metrics.jsonl, the progress bar, experiment trackers, and pictures of the losses."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.files import disk
from turntable.pages.charts import Axis, Series, lines
from turntable.pages.svg import Drawing

if TYPE_CHECKING:
    from trainer.base_model import BuildProgress
    from trainer.training.checkpoint import LoopState


@contextmanager
def base_model_progress(console: Console) -> Iterator[Callable[["BuildProgress"], None]]:
    """Yield a progress callback for `build_base_model`; nothing is shown until it is called."""
    columns = (TextColumn("base model"), BarColumn(), TextColumn("{task.description}"), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, visible=False)

        def report(now: "BuildProgress") -> None:
            if not now.share:
                console.print("building the embedded base model, SmolLM2-135M-Instruct, once (269 MB, about 15 s)")
            bar.update(task, visible=now.share < 1, completed=now.share, description=now.doing)

        yield report


class TrainingProgress:
    """A progress bar with loss, tokens per second and time left; a context manager around the training loop."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None, figures="loading the model")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, done: int, total: int, *, loss: float, tokens_per_s: float) -> None:
        """Show that `done` of `total` steps are done."""
        self._bar.update(
            self._task, completed=done, total=total, figures=f"loss {loss:.3f}  {tokens_per_s:,.0f} tokens/s"
        )

    def resumed(self, done: int, total: int) -> None:
        """Print that the run continues after step `done`."""
        self._console.print(f"continuing after step {done} of {total}", highlight=False)

    def epoch(self, epoch: float, eval_loss: float, *, tokens_per_s: float, left_s: float | None) -> None:
        """Print the eval loss above the bar; `left_s` is the time left, if known."""
        when = f"epoch {epoch:g}" if epoch else "before training"
        speed = f", {tokens_per_s:,.0f} tokens/s" if tokens_per_s else ""
        left = f", {left_s:.0f} s left" if left_s else ""
        self._console.print(f"{when}: eval loss {eval_loss:.4f}{speed}{left}", highlight=False)


_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One logged step: either `loss` with its learning rate and gradient norm, or `eval_loss`; the others are None.

    `tokens` counts the input tokens so far, without padding. The rewards are those of preference methods
    (preferences.py): means over chosen (or good) and rejected (or bad) answers, their difference, and the share of
    pairs whose chosen answer has the higher one.
    """

    step: int
    epoch: float
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0
    reward_chosen: float | None = None
    reward_rejected: float | None = None
    reward_margin: float | None = None
    reward_accuracy: float | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The step as metrics.jsonl keeps it; rewards only where there are some."""
        return {k: v for k, v in asdict(self).items() if v is not None or not k.startswith("reward_")}


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Draw values as a row of at most `width` blocks, each the mean of its share."""
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
    unit = "loss" if has_rewards(metrics) else "loss, nats per token"
    _save(path, lines(f"Loss of {title}", Axis("step"), Axis(unit), series))


def has_rewards(metrics: Sequence[StepMetrics]) -> bool:
    """Whether the steps are of a preference method."""
    return any(m.reward_chosen is not None or m.reward_rejected is not None for m in metrics)


def save_reward_curves(folder: Path, title: str, metrics: Sequence[StepMetrics]) -> None:
    """Draw the rewards into rewards.svg, those of pairs with the accuracy into accuracy.svg; of training and eval."""
    curves = [
        Series(f"{name} ({part})", points, has_markers=part == "eval")
        for part in ("training", "eval")
        for name in ("chosen", "rejected", "margin")
        if (points := _points(metrics, f"reward_{name}", part))
    ]
    _save(folder / "rewards.svg", lines(f"Rewards of {title}", Axis("step"), Axis("reward"), curves))
    shares = [
        Series(part, points, has_markers=part == "eval")
        for part in ("training", "eval")
        if (points := _points(metrics, "reward_accuracy", part))
    ]
    if shares:
        y = Axis("share of pairs with a higher reward for the chosen answer")
        _save(folder / "accuracy.svg", lines(f"Accuracy of {title}", Axis("step"), y, shares))


def _points(metrics: Sequence[StepMetrics], field: str, part: str) -> list[tuple[float, float]]:
    steps = [m for m in metrics if (m.eval_loss is not None) == (part == "eval")]
    return [(m.step, value) for m in steps if (value := getattr(m, field)) is not None]


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


class MetricsRecorder:
    """Write each logged step to metrics.jsonl before the next step begins, and to the progress bar.

    `track` gets every logged value as well, by name and step.
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

    def on_start(self, state: "LoopState", steps: int) -> None:
        """Keep the steps logged up to the checkpoint; later lines of the interrupted run are dropped."""
        self._steps, self._log_every = steps, max(1, steps // _LOGGED_STEPS)
        evals = len(state.losses or ())
        for step in read_metrics(self._path) if state.step or evals else ():
            evals -= step.eval_loss is not None
            if step.step <= state.step and evals >= 0:
                self.metrics.append(step)
        write_metrics(self._path.parent, self.metrics)
        if state.step:
            self._progress.resumed(state.step, steps)

    def on_step(
        self,
        state: "LoopState",
        *,
        epoch: float,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        rewards: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Log the step; of runs with very many steps only some are logged."""
        self._progress.step(state.step, self._steps, loss=loss, tokens_per_s=_speed(state))
        if state.step % self._log_every and state.step != self._steps:
            return
        figures = {"loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm}
        self._write(state, epoch=epoch, **figures, **_named(rewards))

    def on_eval(
        self, state: "LoopState", *, epoch: float, eval_loss: float, rewards: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """Log an eval loss."""
        left_s = state.steps_s / state.step * (self._steps - state.step) if state.step else None
        self._progress.epoch(epoch, eval_loss, tokens_per_s=_speed(state), left_s=left_s)
        self._write(state, epoch=float(epoch), eval_loss=eval_loss, **_named(rewards))

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


class NoMetrics:
    """Log nothing, on the other ranks of a distributed run."""

    def on_start(self, state: "LoopState", steps: int) -> None:
        """Log nothing."""

    def on_step(self, state: "LoopState", **figures: Any) -> None:
        """Log nothing."""

    def on_eval(self, state: "LoopState", **figures: Any) -> None:
        """Log nothing."""


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read the steps logged in a file; a truncated last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [StepMetrics(**json.loads(line)) for line in lines[:-1]]


def write_metrics(folder: Path, metrics: Sequence[StepMetrics]) -> None:
    """Write metrics.jsonl."""
    with disk(folder):
        (folder / METRICS_FILE).write_text("".join(map(_line, metrics)), encoding="utf-8")


def _line(step: StepMetrics) -> str:
    return json.dumps(step.document) + "\n"


def _named(rewards: Mapping[str, float]) -> dict[str, float]:
    return {f"reward_{name}": value for name, value in rewards.items()}


def _speed(state: "LoopState") -> float:
    return state.input_tokens / state.steps_s if state.steps_s else 0.0
