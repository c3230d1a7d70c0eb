"""A corpus: what the engine serves well passes, and each way to be broken is refused where it is broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapters import BaseModel, PreflightError, preflight
from tests.adapters.conftest import ALL_LINEAR, ATTENTION, Q0, Adapter, Shapes, Tensors, in_layers, key, lora

MAX_RANK = 16
WEIGHTS = "adapter_model.safetensors"
Change = Callable[[Adapter], object]


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def resized(shapes: Shapes, factor: float) -> Shapes:
    return {name: (int(rows * factor), int(columns * factor)) for name, (rows, columns) in shapes.items()}


def attention_only(adapter: Adapter) -> None:
    adapter.config["target_modules"] = ["q_proj", "v_proj", "o_proj"]
    adapter.tensors = lora(in_layers(ATTENTION))


def with_rank_pattern(adapter: Adapter) -> None:
    adapter.config["rank_pattern"] = {"q_proj": 16}
    queries = {name: shape for name, shape in in_layers(ALL_LINEAR).items() if name.endswith("q_proj")}
    adapter.tensors |= lora(queries, r=16)


def one_layer(adapter: Adapter) -> None:
    adapter.config["layers_to_transform"] = [1]
    adapter.tensors = {name: tensor for name, tensor in adapter.tensors.items() if ".layers.1." in name}


GOOD: dict[str, Change] = {
    "all-linear": lambda adapter: None,
    "attention-only": attention_only,
    "rslora": lambda adapter: adapter.config.update(use_rslora=True),
    "rank pattern within the limit": with_rank_pattern,
    "alpha pattern": lambda adapter: adapter.config.update(alpha_pattern={"q_proj": 32}),
    "one layer": one_layer,
    "regex targets": lambda adapter: adapter.config.update(target_modules=r".*_proj"),
    "excluded modules": lambda adapter: adapter.config.update(exclude_modules=["k_proj"]),
    "gaussian init": lambda adapter: adapter.config.update(init_lora_weights="gaussian"),
    "a target that matches nothing": lambda adapter: adapter.config["target_modules"].append("nowhere"),
    "half precision": lambda adapter: adapter.tensors.update(
        {name: tensor.astype(np.float16) for name, tensor in adapter.tensors.items()}
    ),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_what_the_engine_serves_is_accepted(tmp_path: Path, base: BaseModel, change: Change) -> None:
    adapter = Adapter()
    change(adapter)
    config = preflight(adapter.write(tmp_path / "adapter"), base, max_rank=MAX_RANK)
    assert config.raw == adapter.config


def test_other_files_beside_the_adapter_do_not_matter(adapter_dir: Path, base: BaseModel) -> None:
    (adapter_dir / "README.md").write_text("# A model card")
    (adapter_dir / "tokenizer.json").write_text("{}")
    (adapter_dir / "checkpoint-10").mkdir()
    assert preflight(adapter_dir, base, max_rank=MAX_RANK).r == 8


def without(name: str) -> Change:
    return lambda adapter: adapter.tensors.pop(name)


def with_tensor(name: str, *shape: int) -> Change:
    return lambda adapter: adapter.tensors.update({name: np.ones(shape, np.float32)})


def with_tensors(tensors: Callable[[Tensors], Tensors]) -> Change:
    def change(adapter: Adapter) -> None:
        adapter.tensors = tensors(adapter.tensors)

    return change


FIRST = "model.layers.0.mlp.down_proj"  # tensors are read in the order of their names
FIRST_ATTENTION = "model.layers.0.self_attn.o_proj"
BROKEN: dict[str, tuple[Change, str]] = {
    "prefix of another model class": (
        with_tensors(lambda tensors: renamed(tensors, ".model.layers.", ".language_model.model.layers.")),
        f"{WEIGHTS}: language_model.{FIRST}",
    ),
    "no PEFT prefix": (
        with_tensors(lambda tensors: renamed(tensors, "base_model.model.", "")),
        f"{WEIGHTS}: {FIRST}.lora_A.weight",
    ),
    "keys of a wrapped module": (
        with_tensors(lambda tensors: renamed(tensors, ".self_attn.", ".self_attn.inner.")),
        f"{WEIGHTS}: model.layers.0.self_attn.inner.o_proj",
    ),
    "keys with PEFT's adapter name left in": (
        with_tensors(lambda tensors: renamed(tensors, ".weight", ".default.weight")),
        f"{WEIGHTS}: base_model.model.{FIRST}.lora_A.default.weight",
    ),
    "a half-size model": (
        with_tensors(lambda _: lora(resized(in_layers(ATTENTION), 0.5))),
        f"{WEIGHTS}: {FIRST_ATTENTION}",
    ),
    "a double-size model": (
        with_tensors(lambda _: lora(resized(in_layers(ATTENTION), 2))),
        f"{WEIGHTS}: {FIRST_ATTENTION}",
    ),
    "a model with more layers": (
        with_tensors(lambda tensors: tensors | lora({"model.layers.2.self_attn.q_proj": (16, 16)})),
        f"{WEIGHTS}: model.layers.2.self_attn.q_proj",
    ),
    "r unlike the tensors": (lambda adapter: adapter.config.update(r=16), f"{WEIGHTS}: {FIRST}"),
    "B missing": (without(key(Q0, "B")), f"{WEIGHTS}: {key(Q0, 'B')}"),
    "A missing": (without(key(Q0, "A")), f"{WEIGHTS}: {key(Q0, 'A')}"),
    "ranks of A and B differ": (with_tensor(key(Q0, "B"), 16, 4), f"{WEIGHTS}: {Q0}"),
    "A is a vector": (with_tensor(key(Q0, "A"), 8), f"{WEIGHTS}: {Q0}"),
    "A transposed": (with_tensor(key(Q0, "A"), 16, 8), f"{WEIGHTS}: {Q0}"),
    "no tensors at all": (with_tensors(lambda _: {}), WEIGHTS),
    "trained tokens": (
        with_tensor("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 16),
        f"{WEIGHTS}: base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
    ),
    "a DoRA magnitude": (
        with_tensor(f"base_model.model.{Q0}.lora_magnitude_vector", 16),
        f"{WEIGHTS}: base_model.model.{Q0}.lora_magnitude_vector",
    ),
    "a bias": (
        with_tensor(f"base_model.model.{Q0}.lora_B.bias", 16),
        f"{WEIGHTS}: base_model.model.{Q0}.lora_B.bias",
    ),
    "a fully trained module": (
        with_tensor("base_model.model.lm_head.weight", 64, 16),
        f"{WEIGHTS}: base_model.model.lm_head.weight",
    ),
    "adapted embeddings": (
        with_tensor("base_model.model.model.embed_tokens.lora_embedding_A", 8, 64),
        f"{WEIGHTS}: base_model.model.model.embed_tokens.lora_embedding_A",
    ),
    "an adapted head": (
        with_tensors(lambda tensors: tensors | lora({"lm_head": (64, 16)})),
        f"{WEIGHTS}: lm_head",
    ),
    "rank over the engine's": (lambda adapter: adapter.config.update(r=32), "adapter_config.json: r"),
    "rank over the largest there is": (lambda adapter: adapter.config.update(r=1024), "adapter_config.json: r"),
    "rank pattern over the engine's": (
        lambda adapter: adapter.config.update(rank_pattern={"q_proj": 32}),
        "adapter_config.json: rank_pattern",
    ),
    "another PEFT method": (
        lambda adapter: adapter.config.update(peft_type="ADALORA"),
        "adapter_config.json: peft_type",
    ),
    "trained on another base": (
        lambda adapter: setattr(adapter, "training", {"base_config_sha256": "0" * 64}),
        "training.json: base_config_sha256",
    ),
    "a lineage that is no hash": (
        lambda adapter: setattr(adapter, "training", {"base_config_sha256": 7}),
        "training.json: base_config_sha256",
    ),
    "a training record that is no object": (lambda adapter: setattr(adapter, "training", [1]), "training.json"),
    "a training record with NaN": (
        lambda adapter: setattr(adapter, "training", {"loss": float("nan")}),
        "training.json",
    ),
}


@pytest.mark.parametrize(("change", "where"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_adapter_is_refused_where_it_is_broken(
    tmp_path: Path, base: BaseModel, change: Change, where: str
) -> None:
    adapter = Adapter()
    change(adapter)
    with pytest.raises(PreflightError) as refused:
        preflight(adapter.write(tmp_path / "adapter"), base, max_rank=MAX_RANK)
    assert refused.value.where == where
    assert str(refused.value).startswith(f"{where}: ")
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_a_rank_over_the_engines_names_the_setting_that_takes_it(tmp_path: Path, base: BaseModel) -> None:
    adapter = Adapter()
    adapter.config["r"] = 33
    with pytest.raises(PreflightError, match="is 33, over the engine's 16; start the engine with --max-lora-rank 64"):
        preflight(adapter.write(tmp_path / "adapter"), base, max_rank=MAX_RANK)
    adapter.config["r"] = 513
    with pytest.raises(PreflightError, match="is 513, over the engine's 512; train with r <= 512"):
        preflight(adapter.write(tmp_path / "adapter"), base, max_rank=512)


def test_the_record_of_the_right_base_is_accepted(tmp_path: Path, base: BaseModel) -> None:
    adapter = Adapter(training={"base_config_sha256": base.config_sha256})
    assert preflight(adapter.write(tmp_path / "adapter"), base, max_rank=MAX_RANK).r == 8


def test_pickled_weights_are_no_weights(adapter_dir: Path, base: BaseModel) -> None:
    (adapter_dir / WEIGHTS).rename(adapter_dir / "adapter_model.bin")
    with pytest.raises(PreflightError, match="is missing; only safetensors are served") as refused:
        preflight(adapter_dir, base, max_rank=MAX_RANK)
    assert refused.value.where == WEIGHTS


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:4],
        lambda whole: b"",
        lambda whole: whole + b"\0",
        lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ],
    ids=["cut in the middle", "cut in the header", "empty", "too long", "an LFS pointer"],
)
def test_damaged_weights_are_refused(adapter_dir: Path, base: BaseModel, damage: Callable[[bytes], bytes]) -> None:
    path = adapter_dir / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PreflightError, match="cannot be read") as refused:
        preflight(adapter_dir, base, max_rank=MAX_RANK)
    assert refused.value.where == WEIGHTS


NEEDS_NO_BASE = ["no PEFT prefix", "B missing", "r unlike the tensors", "no tensors at all", "rank over the engine's"]


@pytest.mark.parametrize("kind", [*NEEDS_NO_BASE, "a training record that is no object"])
def test_what_needs_no_base_is_refused_without_one_too(tmp_path: Path, kind: str) -> None:
    adapter, (change, where) = Adapter(), BROKEN[kind]
    change(adapter)
    with pytest.raises(PreflightError) as refused:
        preflight(adapter.write(tmp_path / "adapter"), None, max_rank=MAX_RANK)
    assert refused.value.where == where


def test_without_the_base_shapes_are_not_checked(tmp_path: Path) -> None:
    adapter = Adapter(tensors=lora(resized(in_layers(ATTENTION), 2)))
    assert preflight(adapter.write(tmp_path / "adapter"), None, max_rank=MAX_RANK).r == 8
