"""Training begins from an adapter that fits, of the registry or a folder; it is then the reference, and on record."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from adapters import BaseModel, Registry, State, Store, preflight
from gateway.database import open_database
from tests.trainer.order_recipes import recipe
from trainer.errors import RunError
from trainer.training.export import export
from trainer.training.lineage import find_row_uses
from trainer.training.run import Run, train

QUIET = Console(quiet=True)


def run(folder: Path, base_model: Path, method: str, lora: dict[str, Any], **more: Any) -> Run:
    folder.mkdir(exist_ok=True)
    made = train(recipe(folder, base_model, method, lora={"r": 8, **lora}, **more), folder / "var", QUIET)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Run:
    return run(tmp_path_factory.mktemp("first"), base_model, "lora", {})


@pytest.mark.numeric
def test_dpo_goes_on_from_an_adapter_which_is_its_reference(first: Run, tmp_path: Path, base_model: Path) -> None:
    slow = {"learning_rate": 1e-5, "num_train_epochs": 1, "per_device_train_batch_size": 4}
    second = run(tmp_path, base_model, "dpo", {"init": str(first.directory)}, training=slow)
    # Of the base as reference, the loss before training would be another one than of two equally likely answers.
    assert second.facts["eval_loss_before"] == pytest.approx(0.6931, abs=1e-3)
    assert second.facts["initial_adapter"]["digest"] == first.facts["digest"]
    assert first.facts["digest"][:12] in (second.directory / "README.md").read_text()
    before, after = (load_file(one.directory / "adapter_model.safetensors") for one in (first, second))
    moved = sum(float((after[name].float() - before[name].float()).norm()) for name in before)
    size = sum(float(before[name].float().norm()) for name in before)
    assert 0 < moved < 0.05 * size, "a few small steps from the first adapter"


@pytest.mark.numeric
def test_qlora_from_an_adapter_is_compared_with_it_on_the_bf16_base(
    first: Run, tmp_path: Path, base_model: Path
) -> None:
    served = run(tmp_path, base_model, "qlora", {"init": str(first.directory)}).facts["on_bf16_base"]
    # The same weights over the same rows in the same packs as at the end of the first run.
    assert served["eval_loss_before"] == pytest.approx(first.facts["eval_loss"], rel=1e-3)
    assert served["eval_loss"] < served["eval_loss_before"]


def test_a_deletion_request_finds_the_adapters_that_were_begun_from_one_that_saw_the_row(
    first: Run, tmp_path: Path, base_model: Path
) -> None:
    second = run(tmp_path, base_model, "dpo", {"init": str(first.directory)})
    rows = (first.directory / "rows.jsonl").read_text().splitlines()
    row = next(seen["row_id"] for seen in map(json.loads, rows) if seen["part"] == "train")
    found = find_row_uses(row, tmp_path / "var", [first.directory]).found
    assert {(use.digest, use.part) for use in found} == {
        (first.facts["digest"], "train"),
        (second.facts["digest"], "initial"),
    }


def test_a_version_of_the_registry_is_found_by_its_ref(first: Run, tmp_path: Path, base_model: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    database = open_database(f"sqlite:///{data_dir / 'turntable.db'}")
    config = preflight(first.directory, BaseModel.read(base_model), max_rank=8)
    registry = Registry(database)
    version = registry.add("late", Store(data_dir / "adapters").put(first.directory, config), actor="tests")
    registry.set_state(version, State.READY, "proven", actor="tests")
    database.dispose()
    second = run(tmp_path, base_model, "kto", {"init": "late@v1"})
    assert second.facts["initial_adapter"]["ref"] == "late@v1"
    assert second.facts["initial_adapter"]["digest"] == first.facts["digest"]
    with pytest.raises(RunError, match="There is no adapter version 'late@v2'"):
        run(tmp_path, base_model, "kto", {"init": "late@v2"})


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"r": 16}, "has r 8 and this recipe 16; set lora.r = 8"),
        ({"lora_alpha": 8}, "has lora_alpha 32 and this recipe 8; set lora.lora_alpha = 32"),
        ({"target_modules": ["q_proj"]}, r"set lora.target_modules to its modules, down_proj, gate_proj, k_proj"),
        ({"init": "nowhere"}, "has no registry with nowhere; set --data-dir"),
        ({"init": "no where"}, "is no version: write name@v3, or the folder of an adapter"),
        ({"init": "."}, "has no adapter_config.json; name the folder of an adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_a_sentence(
    first: Run, tmp_path: Path, base_model: Path, lora: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunError, match=said):
        run(tmp_path, base_model, "lora", {"init": str(first.directory), **lora})


def test_an_adapter_of_another_base_is_refused(first: Run, tmp_path: Path, base_model: Path) -> None:
    other = shutil.copytree(first.directory, tmp_path / "other")
    training = json.loads((other / "training.json").read_bytes())
    (other / "training.json").write_text(json.dumps({**training, "base_weights_sha256": "ab" * 32}))
    with pytest.raises(RunError, match=r"is not usable: training\.json: base_weights_sha256"):
        run(tmp_path, base_model, "lora", {"init": str(other)})


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "adapter_model.safetensors",
            None,
            "lora.init: .* is not usable: adapter_model.safetensors: is missing",
        ),
        ("adapter_model.safetensors", b"short", "lora.init: .* is not usable: adapter_model.safetensors"),
        ("adapter_config.json", b"{", "lora.init: .* is not usable: adapter_config.json"),
        ("training.json", b"{", "training.json"),
    ],
)
def test_an_adapter_with_a_file_that_is_missing_or_broken_is_refused(
    first: Run, tmp_path: Path, base_model: Path, file: str, content: bytes | None, said: str
) -> None:
    broken = shutil.copytree(first.directory, tmp_path / "broken")
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    with pytest.raises(RunError, match=said):
        run(tmp_path, base_model, "lora", {"init": str(broken)})
    assert not (tmp_path / "var" / "runs").exists() or not list((tmp_path / "var" / "runs").iterdir())


@pytest.mark.numeric
def test_ranks_alphas_and_targets_can_differ_by_module(tmp_path: Path, base_model: Path) -> None:
    shape: dict[str, Any] = {
        "target_modules": r".*[.](q_proj|down_proj)",
        "rank_pattern": {"down_proj": 16},
        "alpha_pattern": {"down_proj": 64},
    }
    made = run(tmp_path, base_model, "lora", shape)
    config = preflight(made.directory, BaseModel.read(base_model), max_rank=16)
    assert config.max_rank == 16
    tensors = load_file(made.directory / "adapter_model.safetensors")
    ranks = {name.split(".")[-3]: tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    assert ranks == {"q_proj": 8, "down_proj": 16}
    merged = export(str(made.directory), "merged", None, tmp_path / "merged", tmp_path, QUIET)
    assert merged.differences is not None
    assert merged.differences.mean < 1.5 * merged.differences.of_bf16, "PEFT scales every module the same way"
    with pytest.raises(RunError, match="rank_pattern: o_proj matches no adapted module"):
        run(tmp_path, base_model, "lora", {**shape, "rank_pattern": {"o_proj": 16}})
    with pytest.raises(RunError, match="matches no linear layer of the base"):
        run(tmp_path, base_model, "lora", {"target_modules": "nothing.*"})
