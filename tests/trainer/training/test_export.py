"""An exported adapter answers as the adapter does: in PEFT's files, merged into its base, and as GGUF."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file

from adapters import Registry, Store
from adapters.peft_config import read_peft_config
from gateway.database import open_database
from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.families.measure import rows
from tests.trainer.families.parity import logprobs, prepare
from trainer.errors import RunError
from trainer.training.export import ExportedAdapter, Format, export
from trainer.training.model import architecture

QUIET = Console(quiet=True)
_EPSILON = torch.finfo(torch.float32).eps
# A log-probability is the end of two layers of sums over up to 128 products, each rounded in fp32.
_LOGPROB = 2 * 128 * _EPSILON
TRANSFORMERS_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OF_TWO_HEADS = {"q_proj": 4, "k_proj": 2}


def family(name: str, folder: Path, **config: object) -> Path:
    """Write base and adapter of a two-layer model, with other fields in adapter_config.json where asked."""
    prepare(name, folder)
    adapter, expected = folder / "adapter", json.loads((folder / "expected.json").read_bytes())
    vectors = {
        "format": 1,
        "rows": [{"input_ids": ids, "positions": [], "base": [], "adapter": []} for ids in expected["rows"]],
    }
    (adapter / "parity.json").write_text(json.dumps(vectors), encoding="utf-8")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | config), encoding="utf-8")
    return adapter


def exported(folder: Path, export_format: Format) -> ExportedAdapter:
    base = str(folder / "base")
    return export(str(folder / "adapter"), export_format, base, folder / "out", folder, QUIET)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "mistral3", "qwen3_5", "gemma4", "nemotron_h"])
def test_a_merged_model_of_any_family_has_the_log_probabilities_of_plain_peft(name: str, tmp_path: Path) -> None:
    family(name, tmp_path)
    made = exported(tmp_path, "merged")
    assert made.differences is not None
    model = architecture(made.path).from_pretrained(made.path, dtype=torch.float32).eval()
    expected = json.loads((tmp_path / "expected.json").read_bytes())
    told = [logprobs(model, row.input_ids) for row in rows()]
    worst = max(abs(a - b) for x, y in zip(told, expected["adapter"], strict=True) for a, b in zip(x, y, strict=True))
    moved = max(abs(a - b) for x, y in zip(told, expected["base"], strict=True) for a, b in zip(x, y, strict=True))
    assert worst < _LOGPROB
    assert moved > 100 * _LOGPROB


@pytest.mark.numeric
def test_an_adapter_that_peft_cannot_put_on_its_base_is_not_merged_unchecked(tmp_path: Path) -> None:
    adapter = family("gemma3", tmp_path, target_modules=["q_proj"])
    base = load_file(tmp_path / "base" / "model.safetensors")
    named = next(key for key in base if "vision" in key and key.endswith("q_proj.weight"))
    size = base[named].shape
    module = f"base_model.model.{named.removesuffix('.weight')}"
    tensors = {f"{module}.lora_A.weight": torch.ones(8, size[1]), f"{module}.lora_B.weight": torch.ones(size[0], 8)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"PEFT cannot put .* on its base"):
        exported(tmp_path, "merged")
    assert not (tmp_path / "out").exists()


def changes_in_gguf(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return what llama.cpp adds to each weight, `alpha / r * B A`, in its own order of rows."""
    reader = gguf.GGUFReader(file)
    alpha = reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents()
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    found = {}
    for name, a in tensors.items():
        if name.endswith(".lora_a"):
            b = tensors[name.replace(".lora_a", ".lora_b")]
            assert a.dtype == b.dtype == np.float32
            found[name.removesuffix(".weight.lora_a")] = (
                alpha / b.shape[1] * (b.astype(np.float64) @ a.astype(np.float64))
            )
    return found


def changes_in_peft(folder: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT adds to each weight, by the name of its module."""
    base = architecture(folder / "base").from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapter")
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def in_order_of_transformers(change: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Return rows 2 i and 2 i + 1 of each head as its rows i and i + half."""
    size = len(change) // heads
    order = [head * size + 2 * (i % (size // 2)) + i // (size // 2) for head in range(heads) for i in range(size)]
    return change[order]


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "config",
    [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 7, "layers.1.mlp.up_proj": 40}}],
    ids=["plain", "rslora", "patterns"],
)
def test_a_gguf_file_adds_to_every_weight_what_peft_adds(name: str, config: Mapping[str, Any], tmp_path: Path) -> None:
    family(name, tmp_path, **config)
    found, expected = changes_in_gguf(exported(tmp_path, "gguf").path), changes_in_peft(tmp_path)
    assert len(found) == len(expected) == 14
    for tensor, change in found.items():
        _, layer, kind = tensor.split(".")
        module = f"model.layers.{layer}.{TRANSFORMERS_NAMES[kind]}"
        heads = OF_TWO_HEADS.get(module.rpartition(".")[2]) if name in ("llama", "mistral") else None
        ours = change if heads is None else in_order_of_transformers(change, heads)
        theirs = expected[module].numpy()
        assert np.abs(ours - theirs).max() <= 16 * _EPSILON * np.abs(theirs).max(), tensor


def test_a_gguf_file_says_what_llama_cpp_asks_for(tmp_path: Path) -> None:
    family("qwen3", tmp_path)
    fields = gguf.GGUFReader(exported(tmp_path, "gguf").path).fields
    asked = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha", "general.base_model.0.name")
    assert [fields[name].contents() for name in asked] == ["adapter", "qwen3", "lora", 32.0, "base"]


def test_a_family_without_gguf_is_refused_and_nothing_written(tmp_path: Path) -> None:
    family("gemma3", tmp_path)
    with pytest.raises(RunError, match="base is Gemma3ForConditionalGeneration, and GGUF is written for Llama"):
        exported(tmp_path, "gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "expected.json"]


def test_a_version_of_the_registry_is_exported_by_its_name(tmp_path: Path) -> None:
    adapter, data_dir = family("llama", tmp_path), tmp_path / "var"
    manifest = Store(data_dir / "adapters").put(adapter, read_peft_config(adapter))
    database = open_database(f"sqlite:///{data_dir / 'turntable.db'}")
    Registry(database).add("support", manifest, actor="ops")
    database.dispose()
    options = ("--data-dir", data_dir, "--base-model", tmp_path / "base", "--json")
    made = run(commands.export, "support@v1", "--format", "peft", "--out", tmp_path / "files", *options)
    assert made.exit_code == 0, made.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }
    made = run(commands.export, "support@v1", "--format", "gguf", "--out", tmp_path / "gguf", *options)
    assert json.loads(made.stdout) == {"format": "gguf", "path": str(tmp_path / "gguf" / "adapter.gguf")}
    for ref, said in (("support@v2", "support@v2"), ("support", "support"), ("No Name", "is neither a folder nor")):
        failed = run(commands.export, ref, "--format", "peft", "--out", tmp_path / "none", *options)
        assert (failed.exit_code, said in failed.stderr, (tmp_path / "none").exists()) == (2, True, False)


@pytest.mark.parametrize(("content", "said"), [(None, "has no registry with support@v1"), (b"x", "as a registry")])
def test_a_data_directory_without_a_registry_is_a_sentence(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "turntable.db").write_bytes(content)
    with pytest.raises(RunError, match=said):
        export("support@v1", "peft", None, tmp_path / "out", tmp_path, QUIET)
