"""Preflight over the corpus: what the engine serves well passes, and each broken kind is refused where it is broken."""

import tracemalloc
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from adapters import BaseModel, PreflightError, preflight
from tests.adapters.broken import BROKEN
from tests.adapters.conftest import ATTENTION, Adapter, in_layers, lora
from tests.adapters.corpus import GOOD, MAX_RANK, WEIGHTS, Write, resized


@pytest.mark.parametrize("write", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize("attached", [False, True], ids=["", "no base"])
def test_what_the_engine_serves_is_accepted(tmp_path: Path, base: BaseModel, write: Write, attached: bool) -> None:
    write(tmp_path / "adapter")
    assert preflight(tmp_path / "adapter", None if attached else base, max_rank=MAX_RANK).max_rank <= MAX_RANK


@pytest.mark.parametrize(("write", "where"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_adapter_is_refused_where_it_is_broken(
    tmp_path: Path, base: BaseModel, write: Write, where: str
) -> None:
    write(tmp_path / "adapter")
    with pytest.raises(PreflightError) as refused:
        preflight(tmp_path / "adapter", base, max_rank=MAX_RANK)
    assert refused.value.where == where
    said = str(refused.value)
    assert said.startswith(f"{where}: ")
    assert said.endswith(".")
    assert said.isprintable()
    assert len(said) < 500


def test_other_files_beside_the_adapter_do_not_matter(adapter_dir: Path, base: BaseModel) -> None:
    (adapter_dir / "README.md").write_text("# A model card")
    (adapter_dir / "tokenizer.json").write_text("{}")
    (adapter_dir / "checkpoint-10").mkdir()
    assert preflight(adapter_dir, base, max_rank=MAX_RANK).r == 8


def test_a_rank_over_the_engines_names_the_setting_that_takes_it(tmp_path: Path, base: BaseModel) -> None:
    adapter = Adapter()
    adapter.config["r"] = 33
    with pytest.raises(PreflightError, match="is 33, over the engine's 16; start the engine with --max-lora-rank 64"):
        preflight(adapter.write(tmp_path / "adapter"), base, max_rank=MAX_RANK)
    adapter.config["r"] = 513
    adapter.config["lora_alpha"] = 513
    with pytest.raises(PreflightError, match="is 513, over the engine's 512; train with r <= 512"):
        preflight(adapter.write(tmp_path / "adapter"), base, max_rank=512)


def test_the_record_of_the_right_base_is_accepted(tmp_path: Path, base: BaseModel) -> None:
    recorded = {
        "base_config_sha256": base.config_sha256,
        "base_weights_sha256": base.weights_sha256,
        "tokenizer_sha256": base.tokenizer_sha256,
        "chat_template_sha256": base.chat_template_sha256,
    }
    assert all(recorded.values())
    adapter = Adapter(training=recorded).write(tmp_path / "adapter")
    assert preflight(adapter, base, max_rank=MAX_RANK).r == 8


def test_a_base_without_a_tokenizer_is_not_asked_about_it(tmp_path: Path, base_dir: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base_dir / name).unlink()
    recorded = {"tokenizer_sha256": "0" * 64, "chat_template_sha256": "0" * 64}
    adapter = Adapter(training=recorded).write(tmp_path / "adapter")
    assert preflight(adapter, BaseModel.read(base_dir), max_rank=MAX_RANK).r == 8


NEEDS_THE_BASE = {
    "parity vectors of another vocabulary",
    "prefix of another model class",
    "keys of a wrapped module",
    "made for a half-size model",
    "made for a double-size model",
    "made for a model with more layers",
    "A transposed",
    "trained on another base",
    "other base weights",
    "another tokenizer",
    "another chat template",
    "a lineage that is no hash",
}


@pytest.mark.parametrize("kind", sorted(BROKEN.keys() - NEEDS_THE_BASE))
def test_what_needs_no_base_is_refused_without_one_too(tmp_path: Path, kind: str) -> None:
    write, where = BROKEN[kind]
    write(tmp_path / "adapter")
    with pytest.raises(PreflightError) as refused:
        preflight(tmp_path / "adapter", None, max_rank=MAX_RANK)
    assert refused.value.where == where


def test_without_the_base_shapes_are_not_checked(tmp_path: Path) -> None:
    adapter = Adapter(tensors=lora(resized(in_layers(ATTENTION), 2)))
    assert preflight(adapter.write(tmp_path / "adapter"), None, max_rank=MAX_RANK).r == 8


def test_large_weights_are_read_in_little_memory(tmp_path: Path) -> None:
    directory = Adapter().write(tmp_path / "adapter")
    large = {"model.layers.0.mlp.up_proj": (1 << 20, 16)}
    save_file(lora(large, r=8), directory / WEIGHTS)
    assert (directory / WEIGHTS).stat().st_size > 32 << 20
    tracemalloc.start()
    preflight(directory, None, max_rank=MAX_RANK)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 << 20
