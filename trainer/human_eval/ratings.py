"""Store ratings: one line each, on disk before the next example is shown; an undo is a line as well."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, get_args

from trainer.errors import EvaluationError
from trainer.files import disk
from trainer.human_eval.pairs import PairwiseEval

Choice = Literal["arm", "against", "tie"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Votes = dict[str, dict[int, Choice]]
"""Choices by rater, then by line, in the order of rating."""


def ratings_path(evaluation: PairwiseEval) -> Path:
    """Return the file of the ratings, beside the comparison's report."""
    names = "-vs-".join(name.replace("/", "_").replace("@", "_") for name in (evaluation.arm, evaluation.against))
    return evaluation.report.with_name(f"{evaluation.report.stem}.ratings.{names}.jsonl")


class RatingStore:
    """The ratings of one evaluation, locked by one process at a time; thread-safe."""

    def __init__(self, evaluation: PairwiseEval) -> None:
        self.path = ratings_path(evaluation)
        self._header = _header(evaluation)
        self._lock = threading.Lock()
        self._votes: Votes = {}

    def __enter__(self) -> Self:
        with disk(self.path):
            self._file: IO[bytes] = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._votes = self._read()
        except BlockingIOError as error:
            self._file.close()
            raise EvaluationError(f"{self.path} is locked by another `turntable review rate`; use its page.") from error
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def of(self, rater: str) -> dict[int, Choice]:
        """Return the choices of one rater so far, by line."""
        with self._lock:
            return dict(self._votes.get(rater, {}))

    def votes(self) -> Votes:
        """Return the choices of all raters."""
        with self._lock:
            return {rater: dict(chosen) for rater, chosen in self._votes.items() if chosen}

    def rate(self, rater: str, line: int, choice: Choice, took_ms: int) -> None:
        """Save one rating; it is on disk when this returns."""
        with self._lock:
            self._append({"rater": rater, "line": line, "choice": choice, "took_ms": took_ms, "at": _now()})
            self._votes.setdefault(rater, {})[line] = choice

    def undo(self, rater: str) -> int | None:
        """Remove a rater's last rating and return its line; None when there is none."""
        with self._lock:
            chosen = self._votes.get(rater)
            if not chosen:
                return None
            line = next(reversed(chosen))
            self._append({"rater": rater, "line": line, "undo": True, "at": _now()})
            del chosen[line]
            return line

    def _append(self, document: dict[str, Any]) -> None:
        with disk(self.path):
            self._file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self) -> Votes:
        """Load the ratings; an incomplete last line is truncated."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        with disk(self.path):
            self._file.truncate(len(whole))
        if not whole:
            self._append(self._header)
            return {}
        return _votes(self.path, whole, self._header)


def read_votes(evaluation: PairwiseEval) -> Votes:
    """Return the choices of all raters, also while they rate; raises `EvaluationError` when there are none."""
    path = ratings_path(evaluation)
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    votes = (
        {rater: chosen for rater, chosen in _votes(path, whole, _header(evaluation)).items() if chosen} if whole else {}
    )
    if not votes:
        raise EvaluationError(
            f"there are no ratings of {evaluation.arm} against {evaluation.against}; run `turntable review rate`."
        )
    return votes


def _header(evaluation: PairwiseEval) -> dict[str, Any]:
    return {"format": 1, "contest": evaluation.sha256, "arm": evaluation.arm, "against": evaluation.against}


def _votes(path: Path, content: bytes, expected: dict[str, Any]) -> Votes:
    header, *rows = _objects(path, content)
    if header != expected:
        raise EvaluationError(f"{path} has ratings of other answers; move it away to start again.")
    votes: Votes = {}
    for row in rows:
        chosen = votes.setdefault(row["rater"], {})
        chosen.pop(row["line"], None)
        if not row.get("undo"):
            chosen[row["line"]] = row["choice"]
    return votes


def _objects(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}:{number} is not a rating; fix or remove the line.") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
