"""The base as its directory shows it: module shapes over all shards, and its identity."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters import AdapterError, BaseModel
from adapters.manifest import file_sha256
from adapters.store import CACHE_FILE
from tests.adapters.conftest import ALL_LINEAR, in_layers


def test_modules_of_all_shards_have_their_shapes(base: BaseModel) -> None:
    ends = {"model.embed_tokens": (64, 16), "lm_head": (64, 16)}
    assert base.modules == {**in_layers(ALL_LINEAR), **ends}


def test_vectors_are_no_modules(base: BaseModel) -> None:
    assert not [name for name in base.modules if "norm" in name]


def test_the_identity_is_the_hash_of_config_json(base_dir: Path) -> None:
    before = BaseModel.read(base_dir)
    assert before.config_sha256 == hashlib.sha256((base_dir / "config.json").read_bytes()).hexdigest()
    (base_dir / "config.json").write_text("{}")
    assert BaseModel.read(base_dir).config_sha256 != before.config_sha256


def test_the_weights_have_an_identity_of_their_own(base_dir: Path) -> None:
    before = BaseModel.read(base_dir)
    weights_before = before.weights_sha256
    shard = base_dir / "model-00001-of-00002.safetensors"
    weights = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in in_layers(ALL_LINEAR).items()}
    save_file(weights, shard)
    after = BaseModel.read(base_dir)
    assert before.config_sha256 == after.config_sha256
    assert weights_before != after.weights_sha256 == BaseModel.read(base_dir).weights_sha256


def test_the_identity_of_the_weights_is_what_sha256sum_would_say(base_dir: Path) -> None:
    shards = sorted(base_dir.glob("*.safetensors"))
    printed = "".join(f"{hashlib.sha256(shard.read_bytes()).hexdigest()}  {shard.name}\n" for shard in shards)
    assert BaseModel.read(base_dir).weights_sha256 == hashlib.sha256(printed.encode()).hexdigest()


def test_the_weights_are_read_once_until_they_change(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = BaseModel.read(base_dir).weights_sha256
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr("adapters.store.file_sha256", reading)
    assert BaseModel.read(base_dir).weights_sha256 == first
    assert read == []
    os.utime(base_dir / "model-00002-of-00002.safetensors", ns=(1, 1))
    assert BaseModel.read(base_dir).weights_sha256 == first
    assert read == ["model-00002-of-00002.safetensors"]
    (base_dir / CACHE_FILE).write_text("not what we wrote")
    assert BaseModel.read(base_dir).weights_sha256 == first
    assert len(read) == 3


def test_a_model_that_cannot_be_written_beside_has_an_identity_too(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = BaseModel.read(base_dir).weights_sha256
    (base_dir / CACHE_FILE).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("adapters.store.tempfile.mkstemp", refuse)
    assert BaseModel.read(base_dir).weights_sha256 == expected
    assert not (base_dir / CACHE_FILE).exists()


def test_the_chat_template_is_the_one_that_transformers_uses(base_dir: Path) -> None:
    assert BaseModel.read(base_dir).chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (base_dir / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert BaseModel.read(base_dir).chat_template_sha256 == hashlib.sha256(b"plain").hexdigest()
    (base_dir / "chat_template.jinja").write_text("a file wins")
    assert BaseModel.read(base_dir).chat_template_sha256 == hashlib.sha256(b"a file wins").hexdigest()


def test_a_model_without_tokenizer_and_template_has_no_hash_of_them(base_dir: Path) -> None:
    (base_dir / "tokenizer.json").unlink()
    (base_dir / "tokenizer_config.json").unlink()
    base = BaseModel.read(base_dir)
    assert (base.tokenizer_sha256, base.chat_template_sha256) == (None, None)


def test_a_directory_without_config_json_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no config\.json; give the directory of a Hugging Face model\."):
        BaseModel.read(tmp_path)


def test_a_model_without_safetensors_cannot_be_checked_against(base_dir: Path) -> None:
    for shard in base_dir.glob("*.safetensors"):
        shard.rename(shard.with_suffix(".bin"))
    with pytest.raises(AdapterError, match=r"holds no \*\.safetensors weights"):
        BaseModel.read(base_dir)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\0" * 8, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"]
)
def test_an_unreadable_shard_is_named(base_dir: Path, content: bytes) -> None:
    (base_dir / "model-00002-of-00002.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match=r"model-00002-of-00002\.safetensors is not a readable safetensors file"):
        BaseModel.read(base_dir)
