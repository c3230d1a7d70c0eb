import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.data import loaders
from trainer.data.lint import LintOptions, LintReport, lint_files
from trainer.data.loaders import read_examples, read_pairs
from trainer.data.schema import row_id
from trainer.errors import DataError

USER = {"role": "user", "content": "Hello?"}
ASSISTANT = {"role": "assistant", "content": "Hello!"}


def called(name: str, arguments: str) -> dict[str, object]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def result(call_id: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": "21 degrees"}


def lint(*paths: Path) -> LintReport:
    return lint_files(paths, LintOptions(kind="conversations"))


def problems(path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path}") for problem in lint(path).files[0].problems]


def places(report: LintReport, name: str) -> list[str]:
    return [str(place) for finding in report.findings if finding.name == name for place in finding.places]


def test_good_rows_are_read_in_order_with_their_lines(jsonl: WriteJsonl) -> None:
    path = jsonl(chat("a?", "a"), "", chat("b?", "b", id=7))
    examples = read_examples(path)
    assert [example.line for example in examples] == [1, 3]
    assert [example.messages[0].content for example in examples] == ["a?", "b?"]
    assert lint(path).files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"messages": [USER, {"role": "asistant", "content": "x"}]},
            'messages[1].role is "asistant"; use system, user',
        ),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role is missing"),
        ({"messages": []}, "messages is []; give a list of messages"),
        ({"messages": "hello"}, 'messages is "hello"'),
        ({"messages": [USER, "hello"]}, 'messages[1] is "hello"'),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages[1].content is missing or null"),
        ({"messages": [USER, {"role": "assistant", "content": [1]}]}, "messages[1].content is [1]; write the text"),
        ({"messages": [{"role": "user", "content": " \n"}, ASSISTANT]}, "messages[0].content is empty"),
        ({"messages": [USER]}, "has no assistant message"),
        ({"messages": [USER, ASSISTANT, USER]}, "ends with a user message; end with the assistant message"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}, "a list of parts"),
        (
            {"prompt": "a", "answer": "b"},
            "is a row in columns (as question and answer) shape; convert it: ",
        ),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"prompt": 1, "completion": "a"}, "prompt is 1; write the text as a string"),
        ({"prompt": [USER], "completion": [USER]}, "completion contains user messages"),
        (chat(functions=[{"name": "f"}]), "has functions, which training would ignore; write tools"),
        (chat(tools=[{"type": "function"}]), "tools[0] has no function name"),
        (chat(tools={}), "tools is not a list"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "every assistant message weight 0"),
        ({"messages": [USER, {**ASSISTANT, "weight": -0.5}]}, "messages[1].weight is -0.5; use 1"),
        ({"messages": [USER, {**ASSISTANT, "weight": "2"}]}, 'messages[1].weight is "2"; use 1'),
        ({"messages": [USER, ASSISTANT], "weight": 0}, "weight is 0; give the factor of the row's loss, above 0"),
        ({"messages": [USER, ASSISTANT], "weight": "5 kg"}, 'weight is "5 kg"; give the factor'),
        ({"messages": [{**USER, "weight": 1}, ASSISTANT]}, "messages[0] has weight, but only assistant"),
        ({"messages": [USER, called("f", "{}"), result("2"), ASSISTANT]}, "messages[2].tool_call_id does not match"),
        ({"messages": [USER, called("f", "[]"), ASSISTANT]}, "tool_calls[0].function.arguments is not a JSON object"),
        ({"messages": [{**called("f", "{}"), "role": "user"}, ASSISTANT]}, "but only assistant messages call tools"),
        (pair(preferred_output=[]), "preferred_output is []; give a list of messages"),
        (pair(preferred_output=[USER]), "preferred_output contains user messages; write the assistant message"),
        (pair(non_preferred_output=[{"role": "assistant", "content": "On its way."}]), "has the same answer twice"),
        (pair(input="Where?"), 'input is "Where?"; write {"input": {"messages"'),
        (pair(), "is a preference pair in a file of conversations"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "x"}]}', "surrogate"),
        ('{"messages": ', "is not JSON: Expecting value at column 13"),
        (f"{json.dumps(chat())} {json.dumps(chat())}", "has two JSON objects; put each on a line of its own"),
        (f"{json.dumps(chat())} tail", "is not JSON: unexpected text at column"),
        ('"just text"', "is JSON but not an object"),
        ("[" * 100_000, "is nested too deeply"),
        (
            '{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}',
            "has the field 'content' twice; leave one out",
        ),
        ('{"messages": [], "score": NaN}', "contains NaN, which is not JSON; write null"),
        (chat("a\x00b"), "messages[0].content contains the control character U+0000; remove it"),
        (
            {"messages": [USER, {**ASSISTANT, "loss": False}]},
            "messages[1].loss is false, which training would ignore; write weight 0 (turntable data prepare does)",
        ),
        ({"messages": [USER, {**ASSISTANT, "train": 0}]}, "messages[1].train is 0, which training would ignore"),
        ({"messages": [USER, {**ASSISTANT, "masked": True}]}, "messages[1].masked is true, which training would"),
        (
            {"messages": [USER, {**ASSISTANT, "thinking": "Hm."}]},
            "has thinking, which training would ignore; write r",
        ),
        ({"messages": [{**USER, "reasoning_content": "Hm."}, ASSISTANT]}, "but only assistant messages have reasoning"),
        (chat("a", "I think</think> b"), "has </think> without <think>; pair the tags"),
        (chat("a", "<think>Hm"), "has <think> without </think>: the answer is cut off"),
        (chat("a", "<think><think>a</think>"), "has <think> within <think>"),
        (
            pair(non_preferred_output=[{"role": "assistant", "content": "On\n its way. "}]),
            "has two answers that differ only in white space",
        ),
    ],
)
def test_each_kind_of_problem_is_told_with_file_and_line(jsonl: WriteJsonl, row: object, said: str) -> None:
    path = jsonl(chat(), chat("again?"), row)
    (problem,) = problems(path)
    assert problem.startswith(":3: ")
    assert said in problem


def test_all_problems_of_a_file_are_found_in_one_pass(jsonl: WriteJsonl) -> None:
    path = jsonl("{", chat(), {"messages": []}, {"messages": [USER, {"role": "bot", "content": ""}]})
    path.write_text("not json\n" + path.read_text(encoding="utf-8").split("\n", 1)[1], encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert [problem.line for problem in caught.value.problems] == [1, 3, 4, 4]


def test_bytes_that_are_not_utf8_are_a_problem_of_their_line(jsonl: WriteJsonl) -> None:
    path = jsonl(chat())
    path.write_bytes(path.read_bytes() + b'{"messages": "\xff"}\n')
    (problem,) = problems(path)
    assert problem.startswith(":2: is not UTF-8; save it as UTF-8, or: turntable data prepare")


def test_a_byte_order_mark_does_no_harm(jsonl: WriteJsonl) -> None:
    path = jsonl(chat())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_examples(path)) == 1


def test_foreign_rows_are_recognised_and_the_conversion_is_offered(jsonl: WriteJsonl) -> None:
    row = {"instruction": "Say hi", "input": "", "output": "hi"}
    path = jsonl(row, row, {"conversations": []})
    assert problems(path) == [
        f":1: is a row in Alpaca (instruction, input, output) shape (and 1 more rows); convert it: "
        f"turntable data prepare --from alpaca {path} --out train.messages.jsonl",
        f":3: is a row in ShareGPT (conversations) shape; convert it: "
        f"turntable data prepare --from sharegpt {path} --out train.messages.jsonl",
    ]


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        ([{"instruction": "a", "output": "b"}], "alpaca"),
        ([{"conversations": []}], "sharegpt"),
        ([chat()], "messages"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_one_problem_that_names_its_shape(
    tmp_path: Path, rows: list[object], shape: str, indent: int | None
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows * 3, indent=indent), encoding="utf-8")
    (problem,) = problems(path)
    assert problem.startswith(":1: the file is one JSON array")
    assert f"--from {shape} " in problem
    assert lint(path).files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_chosen_and_rejected_are_recognised_and_the_conversion_is_offered(jsonl: WriteJsonl) -> None:
    (problem,) = problems(jsonl({"conversations": [], "chosen": {}, "rejected": {}}))
    assert problem.startswith(":1: is a row in preference (chosen, rejected) shape; convert it: ")
    assert "--from preference" in problem


def test_prompt_and_completion_are_the_same_row_as_their_messages(jsonl: WriteJsonl) -> None:
    turns = {"prompt": [{"role": "user", "content": "a?"}], "completion": [{"role": "assistant", "content": "a"}]}
    rows = read_examples(jsonl({"prompt": "a?", "completion": "a"}, turns, chat("a?", "a")))
    assert len({row.row_id for row in rows}) == 1
    assert [(m.role, m.content) for m in rows[0].messages] == [("user", "a?"), ("assistant", "a")]


def test_tools_calls_results_and_weights_are_kept(jsonl: WriteJsonl) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    turns: list[Mapping[str, object]] = [
        USER,
        {**ASSISTANT, "weight": 0},
        USER,
        called("weather", "{}"),
        result("1"),
        {**ASSISTANT, "weight": 1},
    ]
    (example,) = read_examples(jsonl({"messages": turns, "tools": tools}))
    assert list(example.tools) == tools
    assert example.as_dicts() == [
        USER,
        ASSISTANT,
        USER,
        {**called("weather", "{}"), "content": ""},
        *turns[4:5],
        ASSISTANT,
    ]
    assert [message.in_loss for message in example.messages] == [False, False, False, True, False, True]
    unweighted = [{key: value for key, value in turn.items() if key != "weight"} for turn in turns]
    assert row_id({"messages": unweighted, "tools": tools}) != example.row_id


def test_of_a_pair_only_the_two_outputs_are_learnt(jsonl: WriteJsonl) -> None:
    path = jsonl(pair(input={"messages": [USER, ASSISTANT, USER]}))
    (row,) = read_pairs(path)
    assert [message.in_loss for message in row.preferred.messages] == [False, False, False, True]
    assert (row.preferred.messages[-1].content, row.rejected.messages[-1].content) == ("On its way.", "No idea.")
    assert row.preferred.messages[:-1] == row.rejected.messages[:-1]
    with pytest.raises(DataError, match="is a preference pair in a file of conversations"):
        read_examples(path)
    with pytest.raises(DataError, match="is a conversation in a file of preference pairs"):
        read_pairs(jsonl(chat(), name="chats.jsonl"))


def test_a_line_without_end_is_a_problem_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"x" * (3 << 20) + b"\n" + json.dumps(chat()).encode())
    report = lint(path).files[0]
    assert [(problem.line, problem.message[:25]) for problem in report.problems] == [(1, "is longer than 1 MiB; spl")]
    assert (report.rows, report.sha256) == (2, hashlib.sha256(path.read_bytes()).hexdigest())


def test_an_object_spread_over_lines_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(chat(), indent=2), encoding="utf-8")
    assert problems(path) == [":1: one object is spread over several lines; write each object on one line"]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_rows_is_a_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    assert problems(path) == [": has no rows; write one JSON object per line"]


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.jsonl") == [": cannot be read (No such file or directory); check the path"]


def test_exact_duplicates_are_warnings_that_name_both_lines(jsonl: WriteJsonl) -> None:
    path = jsonl(chat(), chat("other?"), chat(id=3))
    assert not problems(path)
    assert places(lint(path), "duplicates") == [f"{path}:3: has the same messages as line 1"]


def test_rows_in_two_files_are_warnings(jsonl: WriteJsonl) -> None:
    train = jsonl(chat("a?"), chat("b?"))
    valid = jsonl(chat("c?"), chat("b?"), name="valid.jsonl")
    assert places(lint(train, valid), "leakage") == [f"{valid}:2: is also in {train}:2"]


def test_a_row_keeps_its_id_wherever_and_however_it_is_written(jsonl: WriteJsonl) -> None:
    spaced = '{"id": 7, "messages": [{"content": "a?", "role": "user"}, {"role": "assistant",  "content": "\\u0061"}]}'
    one, other, third = read_examples(jsonl(chat("a?", "a"), spaced, chat("a?", "b")))
    assert one.row_id == other.row_id == row_id(chat("a?", "a")) != third.row_id
    assert len(one.row_id) == 64
