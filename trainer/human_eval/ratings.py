"""Ratings on disk: one line each, there for good before the next item is shown; an undo is a line as well."""

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
"""Who chose what: by rater, then by line, in the order in which it was said."""


def ratings_path(contest: PairwiseEval) -> Path:
    """Where the ratings of a contest are: beside the comparison's report."""
    names = "-vs-".join(name.replace("/", "_").replace("@", "_") for name in (contest.arm, contest.against))
    return contest.report.with_name(f"{contest.report.stem}.ratings.{names}.jsonl")


class Ratings:
    """The ratings of one contest, held by one process at a time; safe to use from several threads."""

    def __init__(self, contest: PairwiseEval) -> None:
        self.path = ratings_path(contest)
        self._header = _header(contest)
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
            raise EvaluationError(
                f"{self.path} is being rated already; use that page of `turntable review`."
            ) from error
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def of(self, rater: str) -> dict[int, Choice]:
        """What one rater has chosen so far, by line."""
        with self._lock:
            return dict(self._votes.get(rater, {}))

    def votes(self) -> Votes:
        """What everybody has chosen."""
        with self._lock:
            return {rater: dict(chosen) for rater, chosen in self._votes.items() if chosen}

    def rate(self, rater: str, line: int, choice: Choice, took_ms: int) -> None:
        """Keep one rating; it is on disk when this returns."""
        with self._lock:
            self._append({"rater": rater, "line": line, "choice": choice, "took_ms": took_ms, "at": _now()})
            self._votes.setdefault(rater, {})[line] = choice

    def undo(self, rater: str) -> int | None:
        """Take a rater's last rating back and return its line; None when there is none."""
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
        """Take over what is there; the end of a torn line is cut off."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        with disk(self.path):
            self._file.truncate(len(whole))
        if not whole:
            self._append(self._header)
            return {}
        return _votes(self.path, whole, self._header)


def read_votes(contest: PairwiseEval) -> Votes:
    """What everybody has chosen so far, also while people are rating; raises `EvaluationError` when nobody has."""
    path = ratings_path(contest)
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    votes = (
        {rater: chosen for rater, chosen in _votes(path, whole, _header(contest)).items() if chosen} if whole else {}
    )
    if not votes:
        raise EvaluationError(
            f"nobody has rated {contest.arm} against {contest.against} yet; run `turntable review rate`."
        )
    return votes


def _header(contest: PairwiseEval) -> dict[str, Any]:
    return {"format": 1, "contest": contest.sha256, "arm": contest.arm, "against": contest.against}


def _votes(path: Path, content: bytes, expected: dict[str, Any]) -> Votes:
    header, *rows = _objects(path, content)
    if header != expected:
        raise EvaluationError(f"{path} holds ratings of other answers; move it away to begin anew.")
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
            raise EvaluationError(f"{path}:{number} is no rating; mend or remove the line.") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
