"""The `data` commands as typed: output, files and exit codes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.trainer import commands
from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.training.loss_mask import Renderer

SECRET = "AKIA" + "IOSFODNN7EXAMPLE"
CLASSES = ("billing", "shipping", "returns")


def data(*arguments: object) -> Result:
    return CliRunner().invoke(commands.data, [str(argument) for argument in arguments])


def report(*arguments: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(data("check", *arguments, "--json").stdout)
    return document


def tickets(count: int) -> list[dict[str, object]]:
    """Rows of three classes whose inputs have few words in common."""
    return [
        chat(" ".join(f"{word}{number}" for word in "abcdefgh"), CLASSES[number % 3], customer=f"c{number // 4}")
        for number in range(count)
    ]


def test_check_passes_clean_files(jsonl: WriteJsonl) -> None:
    result = data("check", jsonl(chat(), chat("again?")))
    assert result.exit_code == 0
    assert "train.jsonl: 2 rows, 0 problems, 0 exact duplicates" in result.stdout
    assert result.stdout.endswith("verdict: green\n")


def test_check_names_every_problem_and_fails(jsonl: WriteJsonl) -> None:
    path = jsonl(chat(), "{", {"messages": []})
    result = data("check", path)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{path}:2: is not JSON: Expecting property name enclosed in double quotes at column 2",
        f"{path}:3: messages is []; give a list of messages",
    ]
    assert result.stdout.endswith("verdict: red\n")


def test_a_file_that_cannot_be_read_is_bad_usage_and_not_a_verdict(tmp_path: Path) -> None:
    result = data("check", tmp_path / "none.jsonl")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"{tmp_path}/none.jsonl: cannot be read (No such file or directory); check the path",
        f"error: {tmp_path}/none.jsonl cannot be read; check the path.",
    ]


def test_check_warns_of_rows_in_two_files_and_fails_when_strict(jsonl: WriteJsonl) -> None:
    train, test = jsonl(chat()), jsonl(chat(), name="test.jsonl")
    result = data("check", train, test)
    assert result.exit_code == 0
    assert f"warning: {test}:1: is also in {train}:1" in result.stderr
    assert data("check", train, test, "--strict").exit_code == 1
    assert report(train, test)["shared_rows"] == [{"file": str(test), "line": 1, "message": f"is also in {train}:1"}]


def test_check_speaks_json(jsonl: WriteJsonl) -> None:
    result = data("check", jsonl("{broken"), "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    (file,) = document["files"]
    assert (file["rows"], file["problems"][0]["line"], document["verdict"]) == (1, 1, "red")


def test_very_many_problems_are_grouped_by_kind(jsonl: WriteJsonl) -> None:
    path = jsonl(*([{"messages": []}] * 60), "[]")
    result = data("check", path)
    assert result.stderr.splitlines() == [
        f"{path}:1: messages is []; give a list of messages (and 59 more rows alike)",
        f'{path}:61: is JSON but not an object; write {{"messages": [...]}}',
    ]
    assert len(report(path)["files"][0]["problems"]) == 61


def test_a_secret_is_red_and_is_not_shown(jsonl: WriteJsonl) -> None:
    result = data("check", jsonl(chat(), chat("key?", SECRET), chat("mail?", "a@b.com")))
    assert result.exit_code == 1
    assert "2: contains an API key" in result.stderr
    assert "3: contains an e-mail address" in result.stderr
    assert SECRET not in result.output


def test_check_measures_lengths_under_the_served_template(jsonl: WriteJsonl, base_model: Path) -> None:
    path = jsonl(*tickets(4), chat("long", "word " * 200), chat("say <|end|>"))
    result = data("check", path, "--base-model", base_model.resolve(), "--max-length", 128, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    lengths = found["lengths"]
    assert (lengths["rows"], lengths["rendered"], lengths["too_long"], lengths["special_tokens"]) == (6, 6, 1, 1)
    assert lengths["percentiles"]["p50"] <= 128 < lengths["percentiles"]["p100"]
    assert 0 < lengths["loss_tokens"] < lengths["tokens"]
    graded = {finding["name"]: finding["grade"] for finding in found["findings"]}
    assert (graded["too_long"], graded["special_tokens"]) == ("red", "red")
    assert found["estimate"]["tokens_per_epoch"] >= lengths["tokens"]


def test_one_long_row_in_a_hundred_is_amber(jsonl: WriteJsonl, base_model: Path) -> None:
    path = jsonl(*tickets(100), chat("long", "word " * 200))
    result = data("check", path, "--base-model", base_model.resolve(), "--max-length", 128)
    assert result.exit_code == 0
    assert "amber too_long                   1  rows over 128 tokens" in result.stdout


def test_the_size_of_classes_is_that_of_the_training_file_alone(jsonl: WriteJsonl) -> None:
    rows = tickets(180)
    train, test = jsonl(*rows[:120]), jsonl(*rows[120:], name="test.jsonl")
    sizes = [
        finding["count"]
        for files in ((train,), (train, test))
        for finding in report(*files, "--task", "classification")["findings"]
        if finding["name"] == "size"
    ]
    assert sizes == [40, 40]


@pytest.mark.parametrize(("rows", "task", "code"), [(99, "style", 1), (100, "style", 0), (90, "classification", 1)])
def test_a_size_below_the_minimum_of_the_task_is_red(jsonl: WriteJsonl, rows: int, task: str, code: int) -> None:
    result = data("check", jsonl(*tickets(rows)), "--task", task)
    assert result.exit_code == code
    assert f"for a {task} task; " in result.stdout


def test_prepare_converts_and_says_what_it_did(tmp_path: Path) -> None:
    source, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    source.write_text('[{"instruction": "hi", "output": "I am {{name}}"}, {"instruction": "x", "output": ""}]')
    result = data("prepare", "--from", "alpaca", source, "--out", out)
    assert result.exit_code == 0
    assert f"{out}: 1 row written of 2 read, 1 dropped, 1 warning" in result.stdout
    assert f"{source}:2: messages[1].content is empty" in result.stderr
    assert f"{source}:1: messages[1].content still holds the placeholder" in result.stderr
    assert data("prepare", "--from", "alpaca", source, "--out", out).exit_code == 2
    assert data("prepare", "--from", "alpaca", source, "--out", out, "--force").exit_code == 0


def test_prepare_speaks_json(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(chat(), chat(), chat("a@b.com"))
    result = data("prepare", path, "--out", tmp_path / "out.jsonl", "--json")
    document = json.loads(result.stdout)
    assert (document["read"], document["written"]) == (3, 2)
    assert document["counts"] == {"dropped": 1, "redacted": 1}
    assert len(Path(document["account"]).read_text().splitlines()) == 2


def test_split_writes_three_files_that_check_finds_nothing_shared_in(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(*tickets(120))
    options = ("--group-field", "customer", "--seed", 3, "--json")
    result = data("split", path, "--out-dir", tmp_path / "parts", *options)
    assert result.exit_code == 0
    parts = json.loads(result.stdout)
    assert parts["rows"] == {"train": 96, "valid": 12, "test": 12}
    assert parts["classes"]["test"] == dict.fromkeys(CLASSES, 4)
    found = report(*parts["paths"].values(), "--group-field", "customer")["findings"]
    assert not [finding for finding in found if finding["name"].endswith("leakage")]
    assert data("split", path, "--out-dir", tmp_path / "parts").exit_code == 2
    assert data("split", path, "--out-dir", tmp_path / "parts", "--force").exit_code == 0
    assert data("split", path, "--valid", 0.5, "--test", 0.5).exit_code == 2


def test_split_says_before_training_that_its_test_part_is_too_small_for_a_verdict(
    jsonl: WriteJsonl, tmp_path: Path
) -> None:
    path = jsonl(*tickets(120))
    result = data("split", path, "--out-dir", tmp_path / "parts")
    assert result.exit_code == 0
    assert (
        "12 test rows, and a verdict of turntable compare needs 50 (min_items in [gate]); split with --test 0.42"
        in (result.stderr)
    )
    again = data("split", path, "--out-dir", tmp_path / "parts", "--force", "--test", 0.42)
    assert "verdict" not in again.stderr


def test_prepare_reads_a_table_whose_columns_are_named(tmp_path: Path) -> None:
    path, out = tmp_path / "a.csv", tmp_path / "a.jsonl"
    path.write_text("stuff,sort\nWhere?,Here.\n", encoding="utf-8")
    unknown = data("prepare", path, "--out", out)
    assert unknown.exit_code == 2
    assert len(unknown.stderr.splitlines()) == 2
    assert "--columns stuff=user,sort=assistant" in unknown.stderr
    assert data("prepare", path, "--out", out, "--columns", "stuff=user,sort=assistant").exit_code == 0
    for wrong in ("stuff=bogus,sort=assistant", "stuff=user", "stuff"):
        refused = data("prepare", path, "--out", out, "--force", "--columns", wrong)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: --columns")


def test_preview_shows_what_is_learnt(jsonl: WriteJsonl, base_model: Path) -> None:
    path = jsonl(chat("Where?", "Here."), *[chat(f"{number}?") for number in range(9)], "{broken, but never reached")
    result = data("preview", path, "--base-model", base_model.resolve())
    assert result.exit_code == 0
    assert "⟦Here.<|end|>⟧" in result.stdout
    assert "⟦Where?" not in result.stdout
    assert result.stdout.count(" loss tokens,") == 3


def test_preview_shows_both_sides_of_a_pair(jsonl: WriteJsonl, base_model: Path) -> None:
    result = data("preview", jsonl(pair("Where?")), "--base-model", base_model.resolve())
    assert result.exit_code == 0
    assert "line 1 (preferred)" in result.stdout
    assert "⟦On its way.<|end|>⟧" in result.stdout
    assert "⟦No idea.<|end|>⟧" in result.stdout
    document = json.loads(data("preview", jsonl(pair()), "--base-model", base_model.resolve(), "--json").stdout)
    assert document[0]["rejected"]["labels"].count(-100) < len(document[0]["rejected"]["labels"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda ids, labels: [-100] * len(ids), "has no loss tokens"),
        (lambda ids, labels: ids, "the prompt is not masked"),
        (lambda ids, labels: [*labels[:-1], -100], "without its stop token"),
    ],
)
def test_preview_fails_when_a_mask_is_not_what_it_has_to_be(
    jsonl: WriteJsonl, base_model: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, said: str
) -> None:
    render = Renderer.render_answers

    def spoilt(self: Renderer, example: Any) -> Any:
        (row,) = render(self, example)
        whole = ((0, len(row.text)),) if spoil(row.input_ids, row.labels) == row.input_ids else row.loss_spans
        return (replace(row, labels=spoil(row.input_ids, row.labels), loss_spans=whole),)

    monkeypatch.setattr(Renderer, "render_answers", spoilt)
    path = jsonl(chat("Where is my parcel?", "Here."))
    result = data("preview", path, "--base-model", base_model.resolve())
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{path}:1: ")
    assert said in result.stderr


def test_preview_of_a_row_that_cannot_be_masked_is_an_error(jsonl: WriteJsonl, base_model: Path) -> None:
    path = jsonl(chat("say <|end|>"), chat())
    result = data("preview", path, "--base-model", base_model.resolve())
    assert result.exit_code == 1
    assert f"{path}:1: messages[0].content contains '<|end|>'" in result.stderr
    assert "line 2" in result.stdout


def test_preview_shows_context_unmarked_and_calls_as_learnt(jsonl: WriteJsonl, base_model: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": '{"order": "7"}'}}
    turns = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "How can I help?", "weight": 0},
        {"role": "user", "content": "Where is 7?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "in transit"},
        {"role": "assistant", "content": "On its way."},
    ]
    result = data("preview", jsonl({"messages": turns}), "--base-model", base_model.resolve())
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("⟦") == 2
    assert "⟦On its way.<|end|>⟧" in result.stdout
    assert "⟦How can I help" not in result.stdout
    assert "track" in result.stdout.partition("⟦")[2].partition("⟧")[0]
