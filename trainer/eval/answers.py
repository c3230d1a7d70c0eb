"""Journal the answers of a comparison on disk as they arrive, so that an interrupted comparison can be resumed.

The first line of answers.jsonl identifies the task and the arms; every other line is one answer. Failed requests are
kept with their reason, and sent again when the comparison is resumed.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from trainer.errors import EvaluationError
from trainer.files import disk


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one arm to one test example; `error` is set, and the rest empty, when the request failed.

    `cost_nano_usd` is None without a price; `cost_basis` names the source of the price.
    """

    arm: str
    line: int
    text: str = ""
    finish_reason: str = ""
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nano_usd: int | None = None
    cost_basis: str | None = None
    error: str | None = None
    cached_tokens: int = 0


class Journal:
    """Async context manager over answers.jsonl; `answers` has the successful ones, by arm and line."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.answers: dict[tuple[str, int], Answer] = {}
        self._header = header
        self._resume = resume and path.is_file() and path.stat().st_size > 0
        self._waiting: list[str] = []
        self._wake = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        with disk(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._resume:
                self._read()
            self._file: IO[str] = self.path.open("a" if self._resume else "w", encoding="utf-8")
        if not self._resume:
            self._put(self._header)
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._wake.set()
        try:
            await self._writer
        finally:
            self._file.close()

    def add(self, answer: Answer) -> None:
        """Add an answer; it is written soon after, in a batch with others."""
        if answer.error is None:
            self.answers[answer.arm, answer.line] = answer
        self._put(asdict(answer))

    def _put(self, document: Mapping[str, Any]) -> None:
        self._waiting.append(json.dumps(document, ensure_ascii=False) + "\n")
        self._wake.set()

    async def _write(self) -> None:
        """Write all lines since the last write, in a thread, so that the event loop is not blocked."""
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            lines, self._waiting = self._waiting, []
            with disk(self.path):
                await asyncio.to_thread(self._append, lines)

    def _append(self, lines: list[str]) -> None:
        self._file.writelines(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> None:
        """Load the answers of the interrupted comparison; an incomplete last line is truncated."""
        whole, _, torn = self.path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            os.truncate(self.path, len(f"{whole}\n".encode()))
        header, *rows = [json.loads(line) for line in whole.split("\n") if line] or [{}]
        if different := [name for name, value in self._header.items() if header.get(name) != value]:
            raise EvaluationError(
                f"{self.path} belongs to another comparison ({different[0]} differs); start again without --resume."
            )
        for answer in (Answer(**row) for row in rows):
            if answer.error is None:
                self.answers[answer.arm, answer.line] = answer


def read_answers(path: Path) -> Iterator[Answer]:
    """Yield every answer of a finished comparison, failed ones too; the last one for each example."""
    last: dict[tuple[str, int], Answer] = {}
    with disk(path), path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if "arm" in row:
                last[row["arm"], row["line"]] = Answer(**row)
    yield from last.values()
