"""The trainer's errors.

    TrainerError
    ├── DataError         a data file cannot be trained on; carries every problem
    ├── RecipeError       a recipe or task file is unreadable, contradictory or cannot be served
    ├── RunError          training, saving or the check of the saved adapter failed
    │   └── OutOfMemoryError  memory ran out; the message names the setting to lower
    ├── Interrupted       a run was asked to stop and has saved its checkpoint
    ├── EvaluationError   a comparison could not be carried out
    └── BaseModelError    the embedded base model cannot be built here (defined beside its builder)

Messages are shown to users as they are: one sentence with the cause and the fix.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class TrainerError(Exception):
    """Base class; `str(error)` is the sentence for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a data file; `line` counts from 1, or is None for the whole file."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class DataError(TrainerError):
    """A data file with problems; nothing is trained on it. The message lists all of them, one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ControlTextError(ValueError):
    """A text of a row that the tokenizer would read as a control token; the row is left out, escaped or reported."""


class RecipeError(TrainerError):
    """A recipe or task file that cannot be used; the message names the file, the field and what it accepts."""


class RunError(TrainerError):
    """A run that could not be finished, or whose saved adapter is not fit to serve; no run directory is left."""


class OutOfMemoryError(RunError):
    """Not enough memory, before or during the run."""

    @classmethod
    def during_a_step(cls, used_tokens: int, longest: int, *, checkpointing: bool) -> "OutOfMemoryError":
        """Make the error of a step with a micro-batch of `used_tokens`, its longest row having `longest` tokens."""
        if used_tokens > longest:
            fix = f"set training.max_tokens_per_batch = {max(64, longest, used_tokens // 2)}, or pass --auto-batch"
        elif not checkpointing:
            fix = "set training.gradient_checkpointing = true"
        else:
            fix = f"set training.max_length = {max(8, longest // 2)}"
        return cls(f"memory ran out in a step of {used_tokens:,} tokens at once; {fix}.")


class EvaluationError(TrainerError):
    """A comparison that could not be made: no gateway, no such model, or an unusable schema."""


class Interrupted(TrainerError):  # noqa: N818 - an event, not a fault
    """A run that was asked to stop and has saved its checkpoint; the message says how to continue."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"interrupted after step {step} of {steps}")
        self.step, self.steps = step, steps
