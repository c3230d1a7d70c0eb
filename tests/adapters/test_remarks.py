"""What an adapter leaves out or brings along is refused or said, never passed over: coverage, patterns, tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters import BaseModel, PreflightError, preflight
from adapters.preflight import remarks
from tests.adapters.conftest import ALL_LINEAR, ATTENTION, Adapter, in_layers, lora, write_base

TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 2, "content": "<|end|>"}, {"id": 3, "content": "<|reserved_3|>"}],
}


def said(directory: Path, base: BaseModel | None) -> tuple[str, ...]:
    return remarks(directory, base, preflight(directory, base, max_rank=16))


def without(*parts: str, **config: Any) -> Adapter:
    """A good adapter without the tensors that have one of these in their names."""
    adapter = Adapter()
    adapter.config.update(config)
    kept = {name: tensor for name, tensor in adapter.tensors.items() if not any(part in name for part in parts)}
    adapter.tensors = kept
    return adapter


def test_a_whole_adapter_leaves_nothing_to_say(adapter_dir: Path, base: BaseModel) -> None:
    assert said(adapter_dir, base) == ()
    assert said(adapter_dir, None) == ()


@pytest.mark.parametrize(
    ("parts", "counted"),
    [(["layers.1."], "6 of 12"), (["layers.0.mlp."], "9 of 12"), (["layers.1.mlp.up_proj"], "11 of 12")],
)
def test_modules_that_the_config_names_and_no_tensor_adapts_are_counted_and_refused(
    tmp_path: Path, base: BaseModel, parts: list[str], counted: str
) -> None:
    adapter = without(*parts).write(tmp_path / "adapter")
    with pytest.raises(
        PreflightError, match=f"holds {counted} modules that adapter_config.json targets: model.*; save"
    ):
        preflight(adapter, base, max_rank=16)


FULL_NAMES = [name for name in in_layers(ALL_LINEAR) if ".layers.1." in name]


@pytest.mark.parametrize(
    "config",
    [{"layers_to_transform": [1]}, {"layers_to_transform": 1}, {"target_modules": FULL_NAMES}],
    ids=["layers", "one layer", "full names"],
)
def test_a_config_that_means_some_layers_is_taken_at_its_word(
    tmp_path: Path, base: BaseModel, config: dict[str, Any]
) -> None:
    assert said(without("layers.0.", **config).write(tmp_path / "adapter"), base) == ()


def test_layers_that_were_promised_are_missed(tmp_path: Path, base: BaseModel) -> None:
    adapter = without("layers.0.", layers_to_transform=[0, 1]).write(tmp_path / "adapter")
    with pytest.raises(PreflightError, match="holds 6 of 12 modules"):
        preflight(adapter, base, max_rank=16)


def test_modules_that_the_config_excludes_are_not_missed(tmp_path: Path, base: BaseModel) -> None:
    excluded = ["layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    assert said(without(*excluded, exclude_modules=excluded).write(tmp_path / "adapter"), base) == ()


def test_a_kind_of_module_without_a_tensor_is_said(tmp_path: Path, base: BaseModel) -> None:
    adapter = Adapter(tensors=lora(in_layers(ATTENTION))).write(tmp_path / "adapter")
    (sentence,) = said(adapter, base)
    assert "model.layers.*.mlp.down_proj, model.layers.*.mlp.gate_proj, model.layers.*.mlp.up_proj too" in sentence
    assert "answer as the base does" in sentence


def test_what_a_pattern_may_mean_is_said_and_not_refused(tmp_path: Path, base: BaseModel) -> None:
    (sentence,) = said(without("layers.0.", target_modules=r".*\.1\..*_proj").write(tmp_path / "adapter"), base)
    assert sentence.startswith("It adapts 6 of 12 modules of its kinds: model.layers.0.mlp.down_proj, ")


def test_a_pattern_from_a_stranger_is_not_run(tmp_path: Path, base: BaseModel) -> None:
    """This one takes longer than the universe has."""
    assert (
        said(without(target_modules=r"(\w+\.?)+(\w+\.?)+(\w+\.?)+(\w+\.?)+\d\d\dX").write(tmp_path / "a"), base) == ()
    )


def test_a_key_of_a_pattern_that_names_no_module_is_said(tmp_path: Path, base: BaseModel) -> None:
    adapter = without(rank_pattern={"q_prj": 4}, alpha_pattern={"q_proj": 32, "layers.7.mlp": 8})
    assert said(adapter.write(tmp_path / "adapter"), base) == (
        "The key 'q_prj' of rank_pattern names no module that is adapted, so it has no effect.",
        "The key 'layers.7.mlp' of alpha_pattern names no module that is adapted, so it has no effect.",
    )


@pytest.fixture
def chatty(tmp_path: Path) -> BaseModel:
    """A base whose tokenizer has tokens."""
    directory = write_base(tmp_path / "chatty")
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return BaseModel.read(directory)


def test_the_bases_own_tokenizer_beside_an_adapter_means_nothing(adapter_dir: Path, chatty: BaseModel) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(chatty.path / name, adapter_dir / name)
    (adapter_dir / "added_tokens.json").write_text('{"<|end|>": 2}')
    assert said(adapter_dir, chatty) == ()


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("chat_template.jinja", "{{ other }}", "chat_template.jinja"),
        ("tokenizer_config.json", '{"chat_template": "{{ other }}"}', "tokenizer_config.json: chat_template"),
    ],
)
def test_a_chat_template_of_its_own_is_refused(
    adapter_dir: Path, chatty: BaseModel, name: str, content: str, where: str
) -> None:
    (adapter_dir / name).write_text(content)
    with pytest.raises(PreflightError, match=r"is not the chat template that is served: .*--chat-template") as refused:
        preflight(adapter_dir, chatty, max_rank=16)
    assert refused.value.where == where


def test_a_template_that_differs_by_its_last_line_break_is_the_same(adapter_dir: Path, chatty: BaseModel) -> None:
    (adapter_dir / "chat_template.jinja").write_text("{{ messages }}\n")
    assert said(adapter_dir, chatty) == ()


@pytest.mark.parametrize(
    ("name", "content", "has"),
    [
        ("added_tokens.json", {"<|tool|>": 4}, "the base ends before"),
        ("added_tokens.json", {"<|tool|>": 3}, "token 3 of the served base is '<|reserved_3|>'"),
        ("added_tokens.json", {"<|end|>": 3}, "token 3 of the served base is '<|reserved_3|>'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"4": {"content": "<|tool|>"}}}, "ends before"),
        ("tokenizer.json", TOKENIZER | {"added_tokens": [{"id": 4, "content": "<|tool|>"}]}, "ends before"),
    ],
    ids=["new", "a reserved one renamed", "moved", "in the config", "in the tokenizer"],
)
def test_tokens_that_the_base_has_not_are_refused(
    adapter_dir: Path, chatty: BaseModel, name: str, content: dict[str, Any], has: str
) -> None:
    (adapter_dir / name).write_text(json.dumps(content))
    with pytest.raises(PreflightError, match=r"brings the token .* train on the base's own tokens") as refused:
        preflight(adapter_dir, chatty, max_rank=16)
    assert refused.value.where == name
    assert has in str(refused.value)


@pytest.mark.parametrize("token", ["[PAD]", {"content": "[PAD]", "special": True}])
def test_a_padding_token_that_was_added_for_training_means_nothing(
    adapter_dir: Path, chatty: BaseModel, token: Any
) -> None:
    (adapter_dir / "added_tokens.json").write_text('{"[PAD]": 4}')
    (adapter_dir / "tokenizer_config.json").write_text(json.dumps({"pad_token": token}))
    assert said(adapter_dir, chatty) == ()


@pytest.mark.parametrize("content", ["[]", "{", '{"added_tokens": [{}]}', '{"added_tokens": 3, "model": 1}', "\0"])
def test_a_tokenizer_that_is_none_is_one_sentence(adapter_dir: Path, chatty: BaseModel, content: str) -> None:
    (adapter_dir / "tokenizer.json").write_text(content)
    with pytest.raises(PreflightError, match=r"is no tokenizer's file; save it again, or leave it out\."):
        preflight(adapter_dir, chatty, max_rank=16)


def test_what_cannot_be_compared_is_said(adapter_dir: Path) -> None:
    (adapter_dir / "chat_template.jinja").write_text("{{ other }}")
    (sentence,) = said(adapter_dir, None)
    assert sentence.startswith("It brings chat_template.jinja, which could not be compared")
