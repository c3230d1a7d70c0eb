"""How a run shows itself: a live bar on a terminal, one line per epoch elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from trainer.base_model import BuildProgress


@contextmanager
def base_model_progress(console: Console) -> Iterator[Callable[["BuildProgress"], None]]:
    """A reporter for `build_base_model`; nothing is shown when the model is there already and nothing is reported."""
    columns = (TextColumn("base model"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("base model", total=None, figures="", visible=False)

        def report(now: "BuildProgress") -> None:
            if now.step == 1:
                console.print(
                    "building the embedded base model, once; it can take minutes, and no other model needs it"
                )
            figures = f"loss {now.loss:.2f}  {now.tokens_per_s:,.0f} tokens/s"
            bar.update(task, visible=True, completed=now.step, total=now.steps, figures=figures)

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
        """Show that `done` of `total` steps are behind us."""
        self._bar.update(
            self._task, completed=done, total=total, figures=f"loss {loss:.3f}  {tokens_per_s:,.0f} tokens/s"
        )

    def resumed(self, done: int, total: int) -> None:
        """Say that the run continues."""
        self._console.print(f"continuing after step {done} of {total}", highlight=False)

    def epoch(self, epoch: int, eval_loss: float, *, tokens_per_s: float, left_s: float | None) -> None:
        """Leave a line about the held-out loss behind, above the bar; `left_s` is the time left, if known."""
        when = f"epoch {epoch}" if epoch else "before training"
        speed = f", {tokens_per_s:,.0f} tokens/s" if tokens_per_s else ""
        left = f", {left_s:.0f} s left" if left_s else ""
        self._console.print(f"{when}: held-out loss {eval_loss:.4f}{speed}{left}", highlight=False)
