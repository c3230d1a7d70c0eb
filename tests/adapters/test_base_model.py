"""The base as its directory shows it: module shapes over all shards, and its identity."""

import hashlib
from pathlib import Path

import pytest

from adapters import AdapterError, BaseModel
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
