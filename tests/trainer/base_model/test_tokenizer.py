"""Any text comes back unchanged, and any ordinary conversation renders, each a prefix of the longer one."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.base_model.corpus import conversations
from trainer.base_model.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, train_tokenizer

texts = st.text(max_size=80).filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "critic"]), "content": texts}
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer((m["content"] for talk in conversations(50, 0) for m in talk), 400, 256)


@given(text=texts)
def test_every_text_comes_back_unchanged(text: str, tokenizer: Any) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))


@given(talk=messages)
def test_a_conversation_is_a_prefix_of_every_longer_one(talk: list[dict[str, str]], tokenizer: Any) -> None:
    rendered = [tokenizer.apply_chat_template(talk[:i], tokenize=False) for i in range(1, len(talk) + 1)]
    tokens = [tokenizer(text)["input_ids"] for text in rendered]
    for (text, ids), (longer_text, longer_ids) in pairwise(zip(rendered, tokens, strict=True)):
        assert longer_text.startswith(text)
        assert longer_ids[: len(ids)] == ids


def test_a_turn_is_its_role_its_content_and_an_end(tokenizer: Any) -> None:
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"


def test_tool_turns_content_parts_and_empty_content_render_as_plain_blocks(tokenizer: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "track", "arguments": "{}"}}
    talk = [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "In Oslo"},
    ]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == (
        "<|system|>Use tools.<|end|><|user|>Where is it?<|end|>"
        '<|assistant|>{"name": "track", "arguments": "{}"}<|end|><|tool|>In Oslo<|end|>'
    )


def test_digits_stay_single_so_that_any_number_can_be_copied(tokenizer: Any) -> None:
    assert tokenizer.tokenize("4821309")[-7:] == list("4821309")


def test_pad_is_not_the_end_of_a_turn_and_nothing_is_added(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.bos_token is None
    assert tokenizer("hi")["input_ids"] == tokenizer("hi", add_special_tokens=False)["input_ids"]


def test_the_template_is_saved_as_a_file_of_its_own(tiny_model: Path) -> None:
    assert (tiny_model / "chat_template.jinja").read_text() == CHAT_TEMPLATE
