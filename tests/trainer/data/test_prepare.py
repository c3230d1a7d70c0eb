import json
import random
from pathlib import Path
from typing import Literal

import pytest

from tests.trainer.conftest import WriteJsonl, chat
from trainer.data.loaders import read_examples, read_pairs
from trainer.data.prepare import Policy, prepare
from trainer.data.schema import row_id
from trainer.errors import DataError, RunError

PLAIN = Policy()


def source(tmp_path: Path, rows: list[object]) -> Path:
    path = tmp_path / "source.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def converted(path: Path) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in example.messages] for example in read_examples(path)]


def test_alpaca_rows_become_messages(tmp_path: Path) -> None:
    rows: list[object] = [
        {"instruction": "Add", "input": "1 2", "output": "3"},
        {"instruction": "Say hi", "input": "", "output": "hi", "system": "Be brief."},
        {"instruction": "And now?", "output": "5", "history": [["Add 2 2", "4"]]},
    ]
    account = prepare(source(tmp_path, rows), tmp_path / "out.jsonl", PLAIN, shape="alpaca")
    assert converted(account.out) == [
        [("user", "Add\n\n1 2"), ("assistant", "3")],
        [("system", "Be brief."), ("user", "Say hi"), ("assistant", "hi")],
        [("user", "Add 2 2"), ("assistant", "4"), ("user", "And now?"), ("assistant", "5")],
    ]
    assert (account.read, account.written, account.dropped) == (3, 3, [])


def test_sharegpt_rows_become_messages(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    rows: list[object] = [{"conversations": turns, "system": "Be kind.", "tools": "[]"}]
    account = prepare(source(tmp_path, rows), tmp_path / "out.jsonl", PLAIN, shape="sharegpt")
    assert converted(account.out) == [[("system", "Be kind."), ("user", "hi"), ("assistant", "hello")]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [], "tools": "[{}]"}, "tools[0] has no function name"),
        ({"conversations": [], "tools": "{"}, "has tools that are not JSON"),
        (
            {"conversations": [{"from": "human", "value": "a"}], "chosen": {}, "rejected": {}},
            "is in preference shape, not sharegpt",
        ),
        ({"conversations": [{"from": "function_call", "value": "a"}]}, "conversations[0] is not a tool call; write"),
        ({"conversations": [{"from": "moderator", "value": "a"}]}, "conversations[0].from is 'moderator'; human, gpt"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "has no assistant message"),
        ({"conversations": 3}, "has sharegpt fields of an unexpected type"),
        ({"instruction": "a", "output": "b"}, "is in alpaca shape, not sharegpt"),
        ("text", "is not a JSON object"),
    ],
)
def test_rows_that_cannot_be_converted_are_left_out_and_named(tmp_path: Path, row: object, reason: str) -> None:
    good = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    account = prepare(source(tmp_path, [good, row]), tmp_path / "out.jsonl", PLAIN, shape="sharegpt")
    assert (account.read, account.written) == (2, 1)
    assert [skipped.line for skipped in account.dropped] == [2]
    assert reason in account.dropped[0].message


def test_placeholders_are_named_with_file_and_row(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl({"instruction": "hi", "output": "hello"}, {"instruction": "Who?", "output": "I am {{ name }}."})
    account = prepare(path, tmp_path / "out.jsonl", PLAIN, shape="alpaca")
    assert [str(warning) for warning in account.warnings] == [
        f"{path}:2: messages[1].content still holds the placeholder {{{{ name }}}}; fill it in"
    ]


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path, out = source(tmp_path, [chat()]), tmp_path / "out.jsonl"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="exists already; choose another --out or pass --force"):
        prepare(path, out, PLAIN, shape="messages")
    assert out.read_text(encoding="utf-8") == "precious"
    prepare(path, out, PLAIN, shape="messages", force=True)
    assert len(read_examples(out)) == 1


@pytest.mark.parametrize("content", ["[{]", "[]", '{"messages": 1}\n{', "[1]", "[1", "", "[\xff]"])
def test_a_conversion_that_fails_leaves_the_old_file(tmp_path: Path, content: str) -> None:
    path, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    path.write_text(content, encoding="utf-8")
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(DataError):
        prepare(path, out, PLAIN, shape="messages", force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "source.json"]
    assert out.read_text(encoding="utf-8") == "precious"


def account_of(path: Path) -> list[tuple[int, str, str]]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(entry["row"], entry["action"], entry["reason"]) for entry in entries]


def test_tool_calls_of_sharegpt_become_those_of_openai(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Weather in Oslo and Rome?"},
        {
            "from": "function_call",
            "value": '[{"name": "w", "arguments": {"c": "Oslo"}}, {"name": "w", "arguments": {}}]',
        },
        {"from": "observation", "value": "cold"},
        {"from": "observation", "value": "warm"},
        {"from": "gpt", "value": "Cold and warm."},
    ]
    tools = json.dumps([{"name": "w", "parameters": {"type": "object"}}])
    account = prepare(source(tmp_path, [{"conversations": turns, "tools": tools}]), tmp_path / "out.jsonl", PLAIN)
    (example,) = read_examples(account.out)
    assert example.tools == ({"type": "function", "function": json.loads(tools)[0]},)
    calls = example.messages[1].tool_calls
    assert [call["function"]["arguments"] for call in calls] == ['{"c": "Oslo"}', "{}"]
    assert [message.tool_call_id for message in example.messages[2:4]] == [call["id"] for call in calls]


def messages_of(account_of_row: object, tmp_path: Path) -> list[dict[str, object]]:
    """The messages that a row becomes."""
    account = prepare(source(tmp_path, [account_of_row]), tmp_path / "out.jsonl", PLAIN, force=True)
    messages: list[dict[str, object]] = json.loads(account.out.read_text())["messages"]
    return messages


@pytest.mark.parametrize("mark", [{"loss": False}, {"train": False}, {"train": 0}, {"weight": 0}, {"masked": True}])
def test_a_message_that_others_mask_gets_weight_0(mark: dict[str, object], tmp_path: Path) -> None:
    def turn(role: str, said: str, **more: object) -> dict[str, object]:
        return {"role": role, "content": said, **more}

    rows = [turn("user", "a?"), turn("assistant", "b", **mark), turn("user", "c?"), turn("assistant", "d", loss=True)]
    wanted = [turn("user", "a?"), turn("assistant", "b", weight=0), turn("user", "c?"), turn("assistant", "d")]
    assert messages_of({"messages": rows}, tmp_path) == wanted
    assert messages_of({"conversations": rows}, tmp_path) == wanted
    named = [
        {"from": {"user": "human", "assistant": "gpt"}[str(row.pop("role"))], "value": row.pop("content"), **row}
        for row in rows
    ]
    assert messages_of({"conversations": named}, tmp_path) == wanted


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning", "thought"])
def test_what_was_thought_is_kept_as_reasoning_content(name: str, tmp_path: Path) -> None:
    row = chat()
    row["messages"][1][name] = "Hm."  # type: ignore[index]
    assert messages_of(row, tmp_path)[1]["reasoning_content"] == "Hm."
    assert name == "reasoning_content" or name not in messages_of(row, tmp_path)[1]


def test_old_calls_developer_messages_and_control_characters_become_usual(tmp_path: Path) -> None:
    row = {
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}, "required": None}}],
        "messages": [
            {"role": "developer", "content": "Be\x00 brief."},
            {"role": "user", "content": "a?"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
            {"role": "assistant", "content": "b"},
        ],
    }
    system, _, called, answered, _ = messages_of(row, tmp_path)
    assert system == {"role": "system", "content": "Be brief."}
    assert called["tool_calls"] == [
        {"id": "call_2_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert (answered["role"], answered["tool_call_id"]) == ("tool", "call_2_0")


@pytest.mark.parametrize("nothing", ["<noinput>", "N/A", "None", " n/a. ", "No input", None, ""])
def test_an_alpaca_input_that_says_there_is_none_is_none(nothing: str | None, tmp_path: Path) -> None:
    row = {"instruction": "Say hi", "input": nothing, "output": "Hi."}
    assert messages_of(row, tmp_path)[0]["content"] == "Say hi"


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"question": "a?", "answer": "b"}, ["a?", "b"]),
        ({"text": "a?", "label": "b", "id": 3}, ["a?", "b"]),
        ({"system": "s", "input": "a?", "output": "b"}, ["s", "a?", "b"]),
        ({"query": "a?", "response": "b"}, ["a?", "b"]),
    ],
)
def test_fields_of_usual_names_are_asked_and_answered(
    row: dict[str, object], wanted: list[str], tmp_path: Path
) -> None:
    assert [one["content"] for one in messages_of(row, tmp_path)] == wanted


def test_transcripts_of_anthropic_become_pairs_and_other_texts_say_what_is_missing(tmp_path: Path) -> None:
    asked = "\n\nHuman: How?\n\nAssistant: What?\n\nHuman: That.\n\nAssistant: "
    rows: list[object] = [
        {"chosen": f"{asked}Good.", "rejected": f"{asked}Bad."},
        {"chosen": "Good.", "rejected": "Bad."},
    ]
    account = prepare(source(tmp_path, rows), tmp_path / "out.jsonl", PLAIN)
    (pair,) = read_pairs(account.out)
    assert [message.content for message in pair.preferred.messages] == ["How?", "What?", "That.", "Good."]
    assert pair.rejected.messages[-1].content == "Bad."
    assert account.dropped[0].message.startswith("has chosen as a text but no prompt; add prompt")


SAID = {"from": "gpt", "value": "Good."}, {"from": "gpt", "value": "Bad."}
ASKED = {"role": "user", "content": "How?"}
GOOD, BAD = {"role": "assistant", "content": "Good."}, {"role": "assistant", "content": "Bad."}


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "How?"}], "chosen": SAID[0], "rejected": SAID[1]},
        {"prompt": "How?", "chosen": "Good.", "rejected": "Bad."},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "How?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score": 3},
        {"instruction": "How?", "input": "", "chosen": "Good.", "rejected": "Bad."},
    ],
)
def test_all_spellings_of_a_preference_become_the_same_pair(tmp_path: Path, row: dict[str, object]) -> None:
    account = prepare(source(tmp_path, [row]), tmp_path / "out.jsonl", PLAIN, shape="preference")
    (pair,) = read_pairs(account.out)
    assert [(message.role, message.content) for message in pair.preferred.messages] == [
        ("user", "How?"),
        ("assistant", "Good."),
    ]
    assert pair.rejected.messages[-1].content == "Bad."


def test_a_preference_without_answers_is_left_out_and_named(jsonl: WriteJsonl, tmp_path: Path) -> None:
    account = prepare(jsonl(chat(), {"prompt": "How?", "chosen": [], "rejected": []}), tmp_path / "out.jsonl", PLAIN)
    assert [problem.line for problem in account.dropped] == [2]
    assert "has preference fields of an unexpected type" in account.dropped[0].message


def test_every_row_is_accounted_for_with_what_was_done_and_why(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(
        chat("Where?", " Here.\n", id=7),
        chat("Mail a@b.com!", "To a@b.com."),
        chat("Where?", "Here."),
        "{broken",
        chat("Mail c@d.org!", "To c@d.org."),
        chat("Where?", "There."),
        {"prompt": "Where to?", "completion": "There."},
    )
    account = prepare(path, tmp_path / "out.jsonl", PLAIN)
    rows = [json.loads(line) for line in account.out.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == chat("Where?", "Here.", id=7)
    assert [row["messages"][0]["content"] for row in rows] == ["Where?", "Mail [EMAIL_1]!", "Where?", "Where to?"]
    assert account_of(account.path) == [
        (1, "trimmed", "white space at the ends of messages"),
        (2, "redacted", "holds an e-mail address (2)"),
        (3, "dropped", "has the same messages as row 1"),
        (4, "dropped", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
        (5, "redacted", "holds an e-mail address (2)"),
        (5, "dropped", "has the same messages as row 2"),
        (6, "kept", "has the same input as row 1 but answers differently"),
    ]
    entries = [json.loads(line) for line in account.path.read_text(encoding="utf-8").splitlines()]
    assert [entry["out_line"] for entry in entries] == [1, 2, None, None, None, None, 3]
    assert entries[1]["row_id"] == row_id(rows[1])
    assert (account.read, account.written, account.counts["dropped"]) == (7, 4, 3)


@pytest.mark.parametrize(
    ("policy", "written", "said"), [("drop", 1, "dropped"), ("keep", 2, "kept"), ("redact", 2, "redacted")]
)
def test_personal_data_is_never_left_or_removed_silently(
    jsonl: WriteJsonl, tmp_path: Path, policy: Literal["drop", "keep", "redact"], written: int, said: str
) -> None:
    account = prepare(jsonl(chat(), chat("Pay 4111 1111 1111 1111")), tmp_path / "out.jsonl", Policy(personal=policy))
    assert account.written == written
    assert account_of(account.path) == [(2, said, "holds a card number (1)")]
    assert ("4111" in account.out.read_text()) == (policy == "keep")


def test_near_copies_are_left_out_when_asked_and_only_when_they_answer_alike(jsonl: WriteJsonl, tmp_path: Path) -> None:
    asked = " ".join(f"word{number}" for number in range(40))
    path = jsonl(chat(asked, "a"), chat(f"{asked} more", "A "), chat(f"{asked} else", "b"), chat(asked, "a"))
    names: tuple[Literal["keep", "exact", "near"], ...] = ("keep", "exact", "near")
    lines = {name: prepare(path, tmp_path / name, Policy(duplicates=name)).written for name in names}
    assert lines == {"keep": 4, "exact": 3, "near": 2}
    assert [entry for entry in account_of(tmp_path / "near.account.jsonl") if entry[1] == "dropped"] == [
        (2, "dropped", "asks nearly the same and answers the same as row 1"),
        (4, "dropped", "has the same messages as row 1"),
    ]


def test_cleaning_twice_changes_nothing(jsonl: WriteJsonl, tmp_path: Path) -> None:
    dice = random.Random(1)
    texts = ["a@b.com", "+49 30 1234567", " spaces ", "hello", '{"card": 4111111111111111}']
    path = jsonl(*(chat(" ".join(dice.choices(texts, k=3)), dice.choice(texts)) for _ in range(60)))
    once = prepare(path, tmp_path / "once.jsonl", PLAIN)
    twice = prepare(once.out, tmp_path / "twice.jsonl", PLAIN)
    assert twice.out.read_bytes() == once.out.read_bytes()
    assert {action for _, action, _ in account_of(twice.path)} <= {"kept"}
