"""Files that are not JSON Lines: each is told in one sentence with the fix, and read by `prepare`."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.trainer.conftest import chat
from trainer.data.lint import LintOptions, lint_files
from trainer.data.loaders import read_examples
from trainer.data.prepare import Policy, PrepareReport, prepare
from trainer.errors import DataError

TABLE = 'question,answer,id\n"Where, please?",Here.,7\n"Two\nlines?",Yes.,8\n'
ASKED = [("Where, please?", "Here."), ("Two\nlines?", "Yes.")]


def prepared(path: Path, **options: object) -> PrepareReport:
    return prepare(path, path.with_name("out.jsonl"), Policy(), force=True, **options)  # type: ignore[arg-type]


def turns(account: PrepareReport) -> list[tuple[str, ...]]:
    return [tuple(message.content for message in one.messages) for one in read_examples(account.out)]


LINES = "".join(f"{json.dumps(chat(*row), ensure_ascii=False)}\n" for row in ASKED)
FILES: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda path: path.write_text(TABLE, encoding="utf-8"),
    "semicolons.csv": lambda path: path.write_text(
        'question;answer\n"Where, please?";Here.\n"Two\nlines?";Yes.\n', encoding="utf-8-sig"
    ),
    "a.tsv": lambda path: path.write_text(
        'question\tanswer\nWhere, please?\tHere.\n"Two\nlines?"\tYes.\n', encoding="utf-8"
    ),
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(TABLE.encode())),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.jsonl": lambda path: path.write_text(LINES, encoding="utf-16"),
    "unmarked.jsonl": lambda path: path.write_bytes(LINES.encode("utf-16-le")),
    "a.parquet": lambda path: parquet.write_table(
        pyarrow.Table.from_pylist([chat(*row) | {"score": float("nan")} for row in ASKED]), path
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_format_is_one_problem_with_the_fix_and_is_read_by_prepare(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    checkup = lint_files([path], LintOptions())
    (problem,) = checkup.files[0].problems
    assert problem.line is None
    assert f"convert it: turntable data prepare {path} --out {path.name.partition('.')[0]}.messages" in problem.message
    assert turns(prepared(path)) == ASKED


def test_windows_1252_is_one_problem_with_the_fix_and_is_read_by_prepare(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [chat("caf\xe9?", "\x80 5"), chat("plain?"), chat("stra\xdfe?")]
    path.write_bytes(b"".join(f"{json.dumps(row, ensure_ascii=False)}\n".encode("latin-1") for row in rows))
    (problem,) = lint_files([path], LintOptions()).files[0].problems
    assert problem.line == 1
    assert problem.message.startswith("is not UTF-8 (and 1 more rows); save it as UTF-8, or: turntable data prepare")
    assert turns(prepared(path))[0] == ("café?", "€ 5")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\x03\x04rest", "is a zip archive or an Excel workbook; save it as JSON Lines, CSV or Parquet"),
        (b"%PDF-1.7", "is neither text nor Parquet"),
        (b"\x28\xb5\x2f\xfdrest", "is neither text nor Parquet"),
    ],
)
def test_what_is_not_read_at_all_is_told_by_both(tmp_path: Path, head: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(head)
    assert said in lint_files([path], LintOptions()).files[0].problems[0].message
    with pytest.raises(DataError) as caught:
        prepared(path)
    assert said in str(caught.value.problems[0])


@pytest.mark.parametrize("content", [gzip.compress(LINES.encode())[:-9], b"PAR1nothing"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepared(path)
    assert len(caught.value.problems) == 1


def test_columns_are_named_when_their_names_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,stuff,sort,tone\n1,Where?,Here.,Be kind.\n2,Why?,Because.,\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepared(path)
    (problem,) = caught.value.problems
    assert "has the columns id, stuff, sort, tone, of which none is known" in problem.message
    assert "--columns stuff=user,tone=assistant" in problem.message
    account = prepared(path, columns={"stuff": "user", "sort": "assistant", "tone": "system"})
    assert turns(account) == [("Be kind.", "Where?", "Here."), ("Why?", "Because.")]
    assert json.loads(account.out.read_text().splitlines()[0])["id"] == "1"
    with pytest.raises(DataError, match="has no stuf; its columns are id, stuff, sort, tone"):
        prepared(path, columns={"stuf": "user", "sort": "assistant"})


def test_a_row_with_too_many_cells_and_a_label_that_is_a_number_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nWhere?,Here.\nWhy, you?,Because.\n", encoding="utf-8")
    assert [problem.message for problem in prepared(path).dropped] == [
        "has 3 cells for 2 columns; quote cells that hold ','"
    ]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "a", "label": 0}\n{"text": "b", "label": "good"}\n', encoding="utf-8")
    assert "has label 0, which is not text" in prepared(rows).dropped[0].message


def test_rows_that_are_lists_of_turns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows: list[object] = [
        chat()["messages"],
        [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}],
        [["c?", "d"], ["e?", "f"]],
        [["user", "g?"], ["assistant", "h"]],
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    wanted = [("Where is my parcel?", "On its way."), ("a?", "b"), ("c?", "d", "e?", "f"), ("g?", "h")]
    assert turns(prepared(path)) == wanted
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert turns(prepared(path)) == wanted
