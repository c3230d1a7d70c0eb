"""What a check says of rows that can be trained on but teach what nobody meant."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import WriteJsonl, chat, pair
from trainer.data.findings import AMBER, RED
from trainer.data.lint import LintOptions, lint_files
from trainer.data.prepare import Policy, prepare
from trainer.data.schema import Example, Pair, parse_row
from trainer.training.loss_mask import Renderer

ROLES = {"s": "system", "u": "user", "a": "assistant"}


def found(path: Path, **wanted: Any) -> dict[str, tuple[str, list[int | None]]]:
    """Grade and lines of each finding."""
    findings = lint_files([path], LintOptions(**wanted)).findings
    return {one.name: (one.grade, [place.line for place in one.places]) for one in findings}


def turns(order: str) -> dict[str, object]:
    return {"messages": [{"role": ROLES[one], "content": f"{one}{n}"} for n, one in enumerate(order)]}


@pytest.mark.parametrize(
    "bad",
    [
        {"label": False},
        {"kto_tag": False},
        {"is_good": 0},
        {"accepted": "no"},
        {"rejected": True},
        {"feedback": "thumbs_down"},
        {"vote": -1},
        {"rating": 1},
        {"stars": 2},
        {"score": 0.1},
        {"reward": -0.5},
    ],
)
def test_a_row_that_says_that_its_answer_is_bad_is_red_and_prepare_leaves_it_out(
    jsonl: WriteJsonl, tmp_path: Path, bad: dict[str, object]
) -> None:
    (name,) = bad
    good = {"label": True, "rating": 5, "stars": 4, "score": 1.0, "reward": 0.9, "vote": 1, "is_good": 1}.get(name, "x")
    path = jsonl(chat("good?") | {name: good}, chat("bad?") | bad, {"prompt": "worse?", "completion": "no", **bad})
    assert found(path)["rated_bad"] == (RED, [2, 3])
    account = prepare(path, tmp_path / "out.jsonl", Policy())
    assert [(one.line, one.message.partition(" is ")[0]) for one in account.dropped] == [(2, name), (3, name)]
    assert account.written == 1
    assert prepare(path, tmp_path / "kept.jsonl", Policy(rated="keep")).written == 3


@pytest.mark.parametrize(
    "fields",
    [
        [{"label": True}, {"label": "negative"}],
        [{"label": 0}, {"label": 1}],
        [{"rating": 4}, {"rating": 5}],
        [{"rating": 0.9}, {"rating": 1}],
        [{"score": 812}, {"score": 12}],
        [{"is_good": 1}, {"is_good": True}],
        [{"category": "bad"}, {"note": False}],
    ],
)
def test_fields_that_do_not_judge_the_answer_are_left_alone(jsonl: WriteJsonl, fields: list[dict[str, object]]) -> None:
    path = jsonl(*(chat(f"{n}?", "negative", **one) for n, one in enumerate(fields)))
    assert "rated_bad" not in found(path)


def test_good_and_bad_answers_to_one_input_become_pairs(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(
        {"prompt": "a?", "completion": "worse", "label": False},
        {"prompt": "a?", "completion": "better", "label": True},
        {"prompt": "b?", "completion": "alone", "label": True},
        {"prompt": "a?", "completion": "same", "label": True},
        {"prompt": "a?", "completion": "same", "label": False},
    )
    account = prepare(path, tmp_path / "out.jsonl", Policy(rated="pairs"))
    rows = [parse_row(1, json.loads(line)) for line in account.out.read_text().splitlines()]
    sides = [(r.preferred.messages[-1].content, r.rejected.messages[-1].content) for r in rows if isinstance(r, Pair)]
    assert sides[0] == ("better", "worse")
    told = {one.line: one.message for one in account.dropped}
    assert told[1] == "label is false, so it is the worse side of a pair"
    assert told[3] == "has no bad answer to the same input to be preferred to"


def test_a_good_answer_is_no_copy_of_one_that_is_marked_bad(jsonl: WriteJsonl, tmp_path: Path) -> None:
    path = jsonl(chat(label=False), chat(label=True))
    account = prepare(path, tmp_path / "out.jsonl", Policy())
    assert [json.loads(line)["label"] for line in account.out.read_text().splitlines()] == [True]


def test_a_pair_whose_scores_prefer_the_rejected_answer_is_red(jsonl: WriteJsonl) -> None:
    path = jsonl(pair("a?", score_chosen=8, score_rejected=2), pair("b?", score_chosen=2, score_rejected=8.5))
    assert found(path)["conflicting_scores"] == (RED, [2])


def test_an_unusual_order_of_turns_is_amber(jsonl: WriteJsonl) -> None:
    good = ["ua", "sua", "uaua"]
    bad = ["aua", "saua", "uua", "usa", "uaa"]
    path = jsonl(*map(turns, [*good, *bad]))
    assert found(path)["turn_order"] == (AMBER, [4, 5, 6, 7, 8])


@pytest.mark.parametrize("text", ["<|im_end|>", "</s>", "[INST]", "<start_of_turn>", "<|eot_id|>", "<｜User｜>"])
def test_a_control_token_in_a_text_is_amber_without_a_base_model(jsonl: WriteJsonl, text: str) -> None:
    path = jsonl(chat("a | b <b>c</b> <|> [x]"), chat(f"say {text}"))
    assert found(path)["control_text"] == (AMBER, [2])


def test_a_row_that_is_far_too_long_is_amber_without_a_base_model(jsonl: WriteJsonl, base_model: Path) -> None:
    path = jsonl(chat(), chat("word " * 2_000))
    assert found(path)["long"] == (AMBER, [2])
    assert "long" not in found(path, max_length=4_000)
    assert "long" not in found(path, renderer=Renderer.load(base_model))


def test_reasoning_is_kept_and_refused_where_the_template_leaves_it_out(jsonl: WriteJsonl, base_model: Path) -> None:
    row = chat("why?")
    row["messages"][1]["reasoning_content"] = "Because of it."  # type: ignore[index]
    path = jsonl(chat(), row)
    assert found(path)["reasoning"] == (AMBER, [2])
    renderer = Renderer.load(base_model)
    assert found(path, renderer=renderer)["unrendered"] == (RED, [2])
    renderer.tokenizer.chat_template = str(renderer.tokenizer.chat_template).replace(
        "{%- if message['content'] is string -%}",
        "{%- if message.reasoning_content -%}{{- message.reasoning_content -}}{%- endif -%}"
        "{%- if message['content'] is string -%}",
    )
    example = parse_row(1, row)
    assert isinstance(example, Example)
    rendered = renderer.render(example)
    ((begin, end),) = rendered.loss_spans
    assert rendered.text[begin:end].startswith("Because of it.On its way.")


def test_empty_thinking_is_amber_and_paired_or_quoted_tags_are_fine(jsonl: WriteJsonl) -> None:
    path = jsonl(
        chat("a", "<think>\n\n</think>\n\nYes."),
        chat("b", "<think>Hm.</think>Yes."),
        chat("c", "Write `<think>` first, then\n```\n</think>\n```"),
    )
    assert found(path)["empty_thinking"] == (AMBER, [1])
    assert "problems" not in found(path)


def test_null_arguments_are_amber_unless_the_tool_takes_them_and_prepare_takes_them_out(
    jsonl: WriteJsonl, tmp_path: Path
) -> None:
    def row(asked: str, arguments: object) -> dict[str, object]:
        kinds = {"city": {"type": "string"}, "day": {"type": ["string", "null"]}}
        function = {"name": "w", "parameters": {"type": "object", "properties": kinds}}
        call = {"id": "1", "type": "function", "function": {"name": "w", "arguments": arguments}}
        said = [{"role": "user", "content": asked}, {"role": "assistant", "tool_calls": [call]}]
        return {"tools": [{"type": "function", "function": function}], "messages": said}

    filled = {"city": "Oslo", "day": None, "radius": None}
    path = jsonl(row("a", json.dumps({"city": "null", "day": None})), row("b", json.dumps(filled)))
    assert found(path)["null_arguments"] == (AMBER, [2])
    spelt: list[object] = [json.dumps(filled), filled, json.dumps(json.dumps(filled)), None, ""]
    other = jsonl(*(row(f"{n}?", one) for n, one in enumerate(spelt)), name="other.jsonl")
    out = prepare(other, tmp_path / "out.jsonl", Policy()).out.read_text().splitlines()
    taken = [json.loads(line)["messages"][1]["tool_calls"][0]["function"]["arguments"] for line in out]
    assert [json.loads(one) for one in taken] == [{"city": "Oslo", "day": None}] * 3 + [{}] * 2
