"""A small task over scripted models, and a way to run it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.scripted_gateway import KEY, RIGHT
from trainer.eval.comparison import ComparisonOutcome, compare, prepare

SCHEMA = {"type": "object", "properties": {"category": {"enum": ["billing", "shipping"]}}}
TASK = 'name = "t"\ndata = "test.jsonl"\njson_schema = "schema.json"\nfields = ["category"]\nmax_tokens = 32\n'
SUBJECTS = ("invoice", "parcel", "refund", "charge", "delivery", "voucher", "courier", "receipt")

WriteTask = Callable[..., Path]


def questions(count: int, answer: str = RIGHT, **more: object) -> list[dict[str, object]]:
    """Rows that ask unlike things."""
    return [
        chat(f"{SUBJECTS[n % 8]} number{n} word{n * 7} thing{n * 13} case{n * 29}", answer, **more)
        for n in range(count)
    ]


@pytest.fixture
def write_task(jsonl: WriteJsonl, tmp_path: Path) -> WriteTask:
    """Writes a task with its data; text is added to the file, rows take the place of three easy questions."""

    def write(text: str = "", rows: list[dict[str, Any]] | None = None, base: str = TASK) -> Path:
        jsonl(*(rows or questions(3)), name="test.jsonl")
        (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
        path = tmp_path / "task.toml"
        path.write_text(base + text, encoding="utf-8")
        return path

    return write


def run(
    task_file: Path,
    gateway_url: str,
    *adapters: str,
    models: tuple[str, ...] = (),
    resume: bool = False,
    key: str = KEY,
) -> ComparisonOutcome:
    """One comparison against a gateway whose admin surface is not at hand."""
    question = prepare(
        task_file, adapters=adapters, models=models, gateway_url=gateway_url, data_dir=task_file.parent / "var"
    )
    answers = task_file.parent / "answers.jsonl"
    return asyncio.run(
        compare(question, gateway_url=gateway_url, key=key, answers=answers, resume=resume, progress=lambda *n: None)
    )
