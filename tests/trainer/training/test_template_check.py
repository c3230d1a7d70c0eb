"""A base whose template cannot begin or end an answer is refused in one sentence, before any row is read."""

import json
import shutil
from pathlib import Path

import pytest

from trainer.errors import RunError
from trainer.training.base import prepare_libraries
from trainer.training.loss_mask import Renderer

TURN = "<|{{ message.role }}|>{{ message.content }}"
GOOD = "{% for message in messages %}" + TURN + "<|end|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
ANSWERS_WITHOUT_HEADER = (
    "{% for message in messages %}{% if message.role == 'user' %}[{{ message.content }}]{% else %}"
    "{{ message.content }}<|end|>{% endif %}{% endfor %}"
)


def load(base_model: Path, folder: Path, template: str) -> Renderer:
    prepare_libraries()
    model = folder / "model"
    shutil.copytree(base_model, model)
    (model / "chat_template.jinja").write_text(template)
    return Renderer.load(model)


@pytest.mark.parametrize("template", [GOOD + PROMPT, ANSWERS_WITHOUT_HEADER])
def test_a_template_whose_answers_begin_and_end_is_taken(base_model: Path, tmp_path: Path, template: str) -> None:
    assert load(base_model, tmp_path, template).chat_template == template


def test_a_template_without_a_generation_prompt_is_refused_with_what_to_add(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no generation prompt.*'<\|assistant\|>'.*add_generation_prompt"):
        load(base_model, tmp_path, GOOD)


def test_a_template_without_an_end_of_turn_is_refused_with_where_to_name_it(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ends an answer with ''.*no end-of-turn token.*eos_token_id"):
        load(base_model, tmp_path, GOOD.replace("<|end|>", "") + PROMPT)


def test_a_tokenizer_without_an_end_of_turn_is_refused_in_a_sentence(base_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "bare"
    shutil.copytree(base_model, model)
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        facts = json.loads((model / name).read_text())
        facts.pop("eos_token", None)
        facts.pop("eos_token_id", None)
        (model / name).write_text(json.dumps(facts))
    prepare_libraries()
    with pytest.raises(RunError, match="names no eos_token_id, so answers could never stop"):
        Renderer.load(model)
