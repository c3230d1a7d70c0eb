"""What `data check` finds in files, as advice keeps it and as the report of a decision shows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from trainer.data.checkup import Wanted, check_files
from trainer.data.sizes import Task as Kind
from trainer.data.verdict import RED
from trainer.errors import RecipeError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckedFile(_Part):
    """A file as it was when it was checked."""

    name: str
    rows: int
    sha256: str


class Found(_Part):
    """One finding without its places, which may hold what nobody should repeat."""

    grade: Literal["green", "amber", "red"]
    name: str
    count: int
    message: str


class DataFacts(_Part):
    """The verdict on some files; `examples` counts the rows of the first without copies, `smallest_class` by class."""

    verdict: Literal["green", "amber", "red"]
    files: tuple[CheckedFile, ...]
    findings: tuple[Found, ...]
    classes: dict[str, dict[str, int]]
    examples: int
    smallest_class: int | None

    @property
    def labels_agree(self) -> bool:
        """Whether the rows can teach one thing: none unusable, at most one in a hundred against another."""
        against = sum(one.count for one in self.findings if one.name in _AGAINST)
        is_broken = any(one.grade == RED and one.name != "size" for one in self.findings)
        return not is_broken and against <= TOLERATED_AGAINST * self.examples


TOLERATED_AGAINST = 0.01
_AGAINST = ("contradictions", "near_contradictions", "turned_preferences")


def check_data(paths: Sequence[Path], kind: Kind | None = None) -> DataFacts:
    """Check files, the one to train on first; raises `RecipeError` when one cannot be read."""
    checkup = check_files(paths, Wanted(task=kind))
    if unreadable := [file for file in checkup.files if file.unreadable]:
        raise RecipeError(f"{unreadable[0].path} cannot be read; give the path of a JSON Lines file.")
    columns = checkup.columns
    different = set(columns.row[columns.file == 0].tolist())
    whole = [balance for balance in checkup.balances if balance.field is None]
    balances = whole or list(checkup.balances)[:1]
    return DataFacts(
        verdict=checkup.verdict,
        files=tuple(CheckedFile(name=file.path.name, rows=file.rows, sha256=file.sha256) for file in checkup.files),
        findings=tuple(Found(grade=f.grade, name=f.name, count=f.count, message=f.message) for f in checkup.findings),
        classes={balance.field or "the whole output": dict(balance.counts) for balance in checkup.balances},
        examples=len(different),
        smallest_class=balances[0].smallest if balances else None,
    )
