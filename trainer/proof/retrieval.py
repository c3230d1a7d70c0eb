"""Documents for the arms with retrieval: read, searched by BM25, and how often the search finds what it should."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.errors import RecipeError
from trainer.proof.items import Item
from trainer.proof.search import Index, Passage
from trainer.proof.task import RetrievalTable

_SUFFIXES = (".txt", ".md")


class Library:
    """The documents of a task, ready to be searched."""

    def __init__(self, passages: Sequence[Passage], table: RetrievalTable) -> None:
        self._passages, self._table = passages, table
        self._index = Index([passage.text for passage in passages])

    @classmethod
    def read(cls, directory: Path, table: RetrievalTable) -> "Library":
        """Read the documents of a task; raises `RecipeError` when there are none."""
        path = directory / table.documents
        passages = list(_folder(path) if path.is_dir() else _lines(path))
        if not passages:
            raise RecipeError(f"{path} holds no documents; put .txt or .md files there, or JSONL with id and text.")
        return cls(passages, table)

    def found(self, item: Item) -> list[Passage]:
        """The passages for an item, best first."""
        return [self._passages[at] for at in self._index.nearest(item.question, self._table.k)]

    def recall(self, items: Sequence[Item]) -> float | None:
        """The mean share of the needed documents that is found; None when no row says what it needs."""
        shares = []
        for item in items:
            gold = item.row.get(self._table.gold)
            if isinstance(gold, list) and gold:
                ids = {passage.id for passage in self.found(item)}
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
            raise RecipeError(f'{path}:{number}: is no document; write {{"id": ..., "text": ...}}.') from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read ({error}); mend documents in the task.") from error
