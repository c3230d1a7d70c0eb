"""The chat template, its variables, reasoning and special tokens as a recipe sets them."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from tests.trainer.conftest import WriteJsonl, chat
from trainer.data.schema import Example, Message
from trainer.errors import DataError, RecipeError, RunError
from trainer.training.base import prepare_libraries
from trainer.training.chat_template import TemplateOptions
from trainer.training.dataset import PreparedData, load_data, prepare_data
from trainer.training.loss_mask import Renderer
from trainer.training.recipe import Recipe

POLITE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if polite %}Please: {% endif %}{% endif %}"
)
HEADLESS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def prepared(base_model: Path, folder: Path, data: dict[str, Any], **fields: Any) -> PreparedData:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "train": "train.jsonl",
            "base_model": str(base_model),
            "valid_fraction": 0.0,
            "data": data,
            "directory": folder,
            **fields,
        }
    )
    return prepare_data(recipe, load_data(recipe), folder, Console(quiet=True))


def test_a_template_is_a_file_or_its_text_and_its_variables_are_given(
    base_model: Path, tmp_path: Path, jsonl: WriteJsonl
) -> None:
    jsonl(chat("a?", "b"))
    (tmp_path / "polite.jinja").write_text(POLITE, encoding="utf-8")
    inline = prepared(base_model, tmp_path, {"chat_template": POLITE})
    file = prepared(base_model, tmp_path, {"chat_template": "polite.jinja"})
    assert inline.renderer.chat_template_sha256 == file.renderer.chat_template_sha256
    assert file.train.rows[0].text == "<|user|>a?<|end|><|assistant|>b<|end|>"
    assert inline.train.rows == file.train.rows


def test_the_same_template_with_another_variable_is_another_prompt(base_model: Path) -> None:
    prepare_libraries()
    row = Example(1, (Message("user", "a?"), Message("assistant", "b")))
    loud = "{% if shout %}LOUD{% endif %}" + POLITE
    texts = [
        Renderer.load(base_model, TemplateOptions(template=loud, kwargs={"shout": value})).render(row).text
        for value in (True, False)
    ]
    assert texts == ["LOUD<|user|>a?<|end|><|assistant|>b<|end|>", "<|user|>a?<|end|><|assistant|>b<|end|>"]


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ({"chat_template": "nowhere.jinja"}, RecipeError, r"nowhere\.jinja cannot be read \(No such file"),
        ({"chat_template": "{% if %}"}, RunError, "the chat template is not valid Jinja"),
        ({"chat_template": HEADLESS}, RunError, "the chat template has no generation prompt, so the model would have"),
        ({"chat_template_kwargs": {"enable_thinkin": False}}, RunError, "has no variable enable_thinkin; correct"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(
    base_model: Path, tmp_path: Path, jsonl: WriteJsonl, data: dict[str, Any], error: type[Exception], said: str
) -> None:
    jsonl(chat("a?", "b"))
    with pytest.raises(error, match=said):
        prepared(base_model, tmp_path, data)


def test_what_the_engine_sets_itself_is_no_variable(tmp_path: Path) -> None:
    data = {"chat_template_kwargs": {"tokenize": True}}
    with pytest.raises(ValueError, match="sets tokenize, which the engine sets itself"):
        Recipe.model_validate({"name": "x", "train": "t", "data": data, "directory": tmp_path})


def test_rows_with_special_tokens_are_left_out_and_named(base_model: Path, tmp_path: Path, jsonl: WriteJsonl) -> None:
    jsonl(*(chat(f"question {n}?") for n in range(120)), chat("What does <|end|> mean?", "It ends a turn."))
    data = prepared(base_model, tmp_path, {})
    assert (data.train.row_count, data.train.control_lines) == (120, (121,))
    assert data.train.dropped_ids == {data.rows.train.rows[-1].row_id}


def test_many_rows_with_special_tokens_stop_the_run_with_the_choice(
    base_model: Path, tmp_path: Path, jsonl: WriteJsonl
) -> None:
    jsonl(chat(), chat("What does <|end|> mean?", "It ends a turn."))
    with pytest.raises(DataError) as caught:
        prepared(base_model, tmp_path, {})
    summary, place = caught.value.problems
    assert 'set special_tokens in [data] to "escape" (encode them as text) or "drop"' in summary.message
    assert (place.line, "messages[0].content contains '<|end|>'" in place.message) == (2, True)
    allowed = prepared(base_model, tmp_path, {}, training={"allow_drop": True})
    assert allowed.train.control_lines == (2,)
    with pytest.raises(DataError, match="1 of 2 rows contain a control token"):
        prepared(base_model, tmp_path, {"special_tokens": "stop"}, training={"allow_drop": True})


def test_an_escaped_special_token_is_encoded_as_text(base_model: Path, tmp_path: Path, jsonl: WriteJsonl) -> None:
    jsonl(chat("What does <|end|> mean?", "<|end|> ends a turn."))
    data = prepared(base_model, tmp_path, {"special_tokens": "escape"})
    (row,) = data.train.rows
    end = AutoTokenizer.from_pretrained(base_model).convert_tokens_to_ids("<|end|>")
    assert [label for label in row.labels if label == end] == [end], "only the end-of-turn is the control token"
    assert row.input_ids.count(end) == 2, "the end of each turn"
    assert data.renderer.tokenizer.decode(row.input_ids).count("<|end|>") == 4
    ((begin, stop),) = row.loss_spans
    assert row.text[begin:stop] == "<|end|> ends a turn.<|end|>"


def test_a_model_without_an_end_of_turn_is_one_sentence(base_model: Path, tmp_path: Path) -> None:
    prepare_libraries()
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        RunError, match=r"names no eos_token_id, so answers could never stop; set it in its config\.json"
    ):
        Renderer.load(tmp_path)
