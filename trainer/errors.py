"""Everything that can go wrong on the way from a JSONL file to a proven adapter, as one tree.

    TrainerError
    ├── DataError         a data file cannot be trained on as it stands; carries every problem found
    ├── RecipeError       a recipe or a task file is unreadable, contradictory or asks for what cannot be served
    ├── RunError          training, saving or the check of the saved adapter failed
    ├── EvaluationError   a comparison could not be carried out
    └── BaseModelError    the embedded base model cannot be built here (defined beside its builder)

Each message is shown to users as it stands: it names the thing and the fix.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class TrainerError(Exception):
    """Root of the tree; `str(error)` is the sentence for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a data file; `line` counts from 1, or is None when it concerns the whole file."""

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


class RecipeError(TrainerError):
    """A recipe or task file that cannot be used; the message names the file, the field and what it accepts."""


class RunError(TrainerError):
    """A run that could not be finished or whose saved adapter is not fit to serve; no run directory is left."""


class EvaluationError(TrainerError):
    """A comparison that could not be made: no gateway, no such model, or an unusable schema."""
