import json
from pathlib import Path

import pytest

from tests.trainer.conftest import WriteJsonl, chat
from trainer.dataset import read_dataset
from trainer.errors import DataError, RunError
from trainer.prepare import prepare


def source(tmp_path: Path, rows: list[object]) -> Path:
    path = tmp_path / "source.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def converted(path: Path) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in example.messages] for example in read_dataset(path).examples]


def test_alpaca_rows_become_messages(tmp_path: Path) -> None:
    rows: list[object] = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Say hi", "input": "", "output": "hi", "system": "Be brief."},
        {"instruction": "And now?", "output": "5", "history": [["Add 2 2", "4"]]},
    ]
    account = prepare(source(tmp_path, rows), "alpaca", tmp_path / "out.jsonl")
    assert converted(account.out) == [
        [("user", "Add\n\n1 2"), ("assistant", "3")],
        [("system", "Be brief."), ("user", "Say hi"), ("assistant", "hi")],
        [("user", "Add 2 2"), ("assistant", "4"), ("user", "And now?"), ("assistant", "5")],
    ]
    assert (account.read, account.written, account.skipped) == (3, 3, ())


def test_sharegpt_rows_become_messages(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    rows: list[object] = [{"conversations": turns, "system": "Be kind.", "tools": "[]"}]
    account = prepare(source(tmp_path, rows), "sharegpt", tmp_path / "out.jsonl")
    assert converted(account.out) == [[("system", "Be kind."), ("user", "hi"), ("assistant", "hello")]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [], "tools": "[{}]"}, "defines tools"),
        (
            {"conversations": [{"from": "human", "value": "a"}], "chosen": {}, "rejected": {}},
            "is in preference shape, not sharegpt",
        ),
        ({"conversations": [{"from": "function_call", "value": "a"}]}, "conversations[0].from is 'function_call'"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "has no assistant message"),
        ({"conversations": 3}, "has sharegpt fields of an unexpected type"),
        ({"instruction": "a", "output": "b"}, "is in alpaca shape, not sharegpt"),
        ("text", "is not a JSON object"),
    ],
)
def test_rows_that_cannot_be_converted_are_left_out_and_named(tmp_path: Path, row: object, reason: str) -> None:
    good = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    account = prepare(source(tmp_path, [good, row]), "sharegpt", tmp_path / "out.jsonl")
    assert (account.read, account.written) == (2, 1)
    assert [skipped.line for skipped in account.skipped] == [2]
    assert reason in account.skipped[0].message


def test_placeholders_are_named_with_file_and_row(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl({"instruction": "hi", "output": "hello"}, {"instruction": "Who?", "output": "I am {{ name }}."})
    account = prepare(path, "alpaca", tmp_path / "out.jsonl")
    assert [str(warning) for warning in account.warnings] == [
        f"{path}:2: messages[1].content still holds the placeholder {{{{ name }}}}; fill it in"
    ]


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path, out = source(tmp_path, [chat()]), tmp_path / "out.jsonl"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="exists already; choose another --out or pass --force"):
        prepare(path, "messages", out)
    assert out.read_text(encoding="utf-8") == "precious"
    prepare(path, "messages", out, force=True)
    assert len(read_dataset(out).examples) == 1


@pytest.mark.parametrize("content", ["[{]", "[]", '{"messages": 1}\n{', "[1]"])
def test_a_conversion_that_fails_leaves_the_old_file(tmp_path: Path, content: str) -> None:
    path, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    path.write_text(content, encoding="utf-8")
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(DataError):
        prepare(path, "messages", out, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "source.json"]
    assert out.read_text(encoding="utf-8") == "precious"
