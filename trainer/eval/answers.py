"""Answers as they come in, on disk at once, so that a comparison that was killed goes on where it was.

answers.jsonl begins with a line that says which task and which arms it belongs to; every other line is one answer. A
failed request is kept too, with its reason, and asked again when the comparison is resumed.
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
    """What one arm said to one held-out row; `error` is set, and the rest empty, when the request failed.

    `cost_nano_usd` is None where nobody said what it cost; `cost_basis` is what the cost was computed from.
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
    """An async context manager over answers.jsonl; `answers` holds the good ones, by arm and line."""

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
        """Take an answer; it is on disk a moment later, with those that came with it."""
        if answer.error is None:
            self.answers[answer.arm, answer.line] = answer
        self._put(asdict(answer))

    def _put(self, document: Mapping[str, Any]) -> None:
        self._waiting.append(json.dumps(document, ensure_ascii=False) + "\n")
        self._wake.set()

    async def _write(self) -> None:
        """One write for all that has come since the last one, away from the loop that asks."""
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
        """Take over what an earlier comparison left; the end of a torn line is cut off."""
        whole, _, torn = self.path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            os.truncate(self.path, len(f"{whole}\n".encode()))
        header, *rows = [json.loads(line) for line in whole.split("\n") if line] or [{}]
        if different := [name for name, value in self._header.items() if header.get(name) != value]:
            raise EvaluationError(
                f"{self.path} belongs to another comparison ({different[0]} differs); begin anew, without --resume."
            )
        for answer in (Answer(**row) for row in rows):
            if answer.error is None:
                self.answers[answer.arm, answer.line] = answer


def read_answers(path: Path) -> Iterator[Answer]:
    """Every answer of a finished comparison, failed ones too, the last word on each item."""
    last: dict[tuple[str, int], Answer] = {}
    with disk(path), path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if "arm" in row:
                last[row["arm"], row["line"]] = Answer(**row)
    yield from last.values()
