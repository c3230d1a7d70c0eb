"""BM25 retrieval: documents for the arms with retrieval and their recall, and examples similar to a question."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.near_duplicates import normalised, words
from trainer.errors import RecipeError
from trainer.eval.examples import EvalExample
from trainer.eval.task import RetrievalTable


class Index:
    """BM25 index over texts in memory; deterministic."""

    def __init__(self, texts: Sequence[str]) -> None:
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # tells each step otherwise
        import bm25s

        self._size = len(texts)
        self._bm25: Any = bm25s.BM25()
        self._bm25.index([_tokens(text) or [""] for text in texts], show_progress=False)

    def nearest(self, query: str, k: int) -> list[int]:
        """Return the indexes of the best texts, best first; of equally good ones the earlier."""
        scores = self._bm25.get_scores(_tokens(query) or [""])
        order = np.argsort(-np.asarray(scores), kind="stable")
        return [int(at) for at in order[: min(k, self._size)]]


@dataclass(frozen=True, slots=True)
class Passage:
    """One document."""

    id: str
    text: str


def _tokens(text: str) -> list[str]:
    return words(normalised(text))


_SUFFIXES = (".txt", ".md")


class DocumentIndex:
    """The documents of a task with their index."""

    def __init__(self, passages: Sequence[Passage], table: RetrievalTable) -> None:
        self._passages, self._table = passages, table
        self._index = Index([passage.text for passage in passages])

    @classmethod
    def read(cls, directory: Path, table: RetrievalTable) -> "DocumentIndex":
        """Read the documents of a task; raises `RecipeError` when there are none."""
        path = directory / table.documents
        passages = list(_folder(path) if path.is_dir() else _lines(path))
        if not passages:
            raise RecipeError(f"{path} has no documents; put .txt or .md files there, or JSONL with id and text.")
        return cls(passages, table)

    def found(self, example: EvalExample) -> list[Passage]:
        """Return the passages for an example, best first."""
        return [self._passages[at] for at in self._index.nearest(example.question, self._table.k)]

    def recall(self, items: Sequence[EvalExample]) -> float | None:
        """Return the mean recall of the needed documents; None when no row names any."""
        shares = []
        for example in items:
            gold = example.row.get(self._table.gold)
            if isinstance(gold, list) and gold:
                ids = {passage.id for passage in self.found(example)}
                shares.append(len(ids.intersection(map(str, gold))) / len(gold))
        return sum(shares) / len(shares) if shares else None


def _folder(path: Path) -> Iterator[Passage]:
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.suffix in _SUFFIXES:
            yield Passage(file.relative_to(path).with_suffix("").as_posix(), _text(file))


def _lines(path: Path) -> Iterator[Passage]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield Passage(str(row["id"]), str(row["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f'{path}:{number}: is not a document; write {{"id": ..., "text": ...}}.') from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); fix documents in the task.") from error
