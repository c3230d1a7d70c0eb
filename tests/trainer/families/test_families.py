"""Every current family is trained as plain PEFT trains it, in the way that docs/supported-models.md says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters import BaseModel
from tests.trainer.families.__main__ import RESULTS
from tests.trainer.families.configs import FAMILIES, build
from tests.trainer.families.measure import CPU, ROW_TOKENS, Measured, measure, saved
from trainer.errors import RunError
from trainer.training.attention import UnsupportedAttention, packed_attention
from trainer.training.loop import as_saved, full_weights
from trainer.training.model import TrainableModel, adapter_tensors, add_adapter, load_base, unfreeze
from trainer.training.output_layer import decoder_of
from trainer.training.recipe import Lora
from trainer.training.self_check import checked
from trainer.training.targets import (
    WITHOUT_LORA,
    checkpoint_prefix,
    lora_targets,
    refuse_unbound,
    refuse_unserved,
    renamed,
)

pytestmark = pytest.mark.numeric

# Sums of some hundred roundings in fp32; Gemma 4's gradients are differences that lose two digits more.
_EPSILON = torch.finfo(torch.float32).eps
LOSS, GRADIENTS = 32 * _EPSILON, 1024 * _EPSILON
HYBRIDS = ("qwen3_next", "jamba", "falcon_h1")


def recorded() -> dict[str, dict[str, object]]:
    families: dict[str, dict[str, object]] = json.loads(RESULTS.read_bytes())["families"]
    return families


def assert_exact(found: Measured) -> None:
    assert found.loss < LOSS
    assert found.gradients < GRADIENTS


def tiny(name: str, folder: Path) -> TrainableModel:
    return add_adapter(load_base(saved(name, folder), CPU), Lora(r=8, lora_dropout=0.0), CPU, seed=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # transformers' gpt_bigcode
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_lora_gradients_are_those_of_plain_peft_row_by_row(name: str, tmp_path: Path) -> None:
    found = measure(name, "lora", tmp_path)
    assert_exact(found)
    listed = recorded()[name]
    assert (found.check.layout, found.check.attention) == (listed["layout"], listed["attention"])
    assert {target.rpartition(".")[2] for target in found.target_modules} == set(listed["target_modules"])  # type: ignore[call-overload]


@pytest.mark.parametrize("method", ["qlora", "full"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gemma3", "gpt_oss", "bamba"])
def test_other_methods_are_exact_too(name: str, method: str, tmp_path: Path) -> None:
    assert_exact(measure(name, method, tmp_path))


@pytest.mark.parametrize("name", HYBRIDS)
def test_in_bf16_a_state_that_crosses_rows_is_found_and_its_layer_named(name: str, tmp_path: Path) -> None:
    model, check = checked(tiny(name, tmp_path), longest=max(ROW_TOKENS))
    assert model.layout == "alone"
    assert check.reason is not None
    assert "depend on the rows before it" in check.reason
    assert check.reason.split()[0] in {type(module).__name__ for module in model.base.modules()}
    assert any("one at a time" in sentence for sentence in check.sentences)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gemma2", "qwen3_moe"])
def test_in_bf16_rows_are_packed_where_packing_is_exact(name: str, tmp_path: Path) -> None:
    model, check = checked(tiny(name, tmp_path), longest=max(ROW_TOKENS))
    assert (model.layout, check.reason) == ("packed", None)


def test_attention_that_is_not_what_the_base_computes_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.attention._visible", lambda tokens, window, device: torch.ones(1, 1) > 0)
    model, check = checked(tiny("gpt_oss", tmp_path), longest=max(ROW_TOKENS))
    assert (model.layout, check.attention) == ("alone", "eager")
    assert "GptOssModel" in str(check.reason)


def test_an_unknown_attention_argument_is_refused_and_named() -> None:
    q = torch.randn(1, 2, 5, 8)
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(UnsupportedAttention, match="Linear passes block_indices to its attention"):
        packed_attention(layer, q, q, q, None, row_tokens=(2, 3), block_indices=q)
    with pytest.raises(UnsupportedAttention, match="needs an attention mask of its own"):
        packed_attention(layer, q, q, q, torch.zeros(1), row_tokens=(2, 3))


@pytest.mark.parametrize(("longest", "layout"), [(64, "packed"), (65, "alone")])
def test_a_chunk_that_no_row_reaches_over_does_not_stop_packing(longest: int, layout: str, tmp_path: Path) -> None:
    model = tiny("llama4_text", tmp_path)
    decoder_of(model.base).config.attention_chunk_size = 64
    assert checked(model, longest=longest)[0].layout == layout


def test_lora_goes_on_the_text_decoder_alone_and_never_on_routers_or_fused_experts() -> None:
    vision = build("gemma3")
    assert all("vision" not in name for name in lora_targets(vision, Lora()))
    assert lora_targets(build("qwen3_moe"), Lora()) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    with pytest.raises(RunError, match=r"lora.target_modules: out_proj cannot be adapted in this family"):
        lora_targets(build("falcon_h1"), Lora.model_validate({"target_modules": ["out_proj"]}))


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "nemotron_h"])
def test_an_adapter_has_the_names_of_the_checkpoint_where_memory_has_others(name: str, tmp_path: Path) -> None:
    model, described = tiny(name, tmp_path), BaseModel.read(tmp_path)
    tensors, prefix = adapter_tensors(model), checkpoint_prefix(model.base, described)
    with pytest.raises(RunError, match="could not be served"):
        refuse_unbound(tensors, described)
    refuse_unbound({renamed(key, prefix): tensor for key, tensor in tensors.items()}, described)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_moe", "nemotron_h"])
def test_a_fully_trained_model_has_the_tensors_of_its_base(name: str, tmp_path: Path) -> None:
    model = unfreeze(load_base(saved(name, tmp_path), CPU), CPU)
    written = as_saved(model, {key: value.detach() for key, value in full_weights(model).items()})
    expected = {key: value.shape for key, value in load_file(tmp_path / "model.safetensors").items()}
    assert {key: value.shape for key, value in written.items()} == expected


def test_a_base_that_the_engine_serves_without_lora_is_refused_before_training() -> None:
    with pytest.raises(RunError, match="vLLM serves StableLmForCausalLM without LoRA"):
        refuse_unserved(["StableLmForCausalLM"], "stablelm-2")
    refuse_unserved(["LlamaForCausalLM"], "smollm2")


def test_the_architectures_without_lora_are_those_of_the_installed_engine() -> None:
    vllm = pytest.importorskip("vllm.model_executor.models.registry")
    known = {**vllm._TEXT_GENERATION_MODELS, **vllm._MULTIMODAL_MODELS}
    sources = Path(vllm.__file__).parent
    for architecture in WITHOUT_LORA:
        module, kind = known[architecture]
        if not (sources / f"{module}.py").exists():  # for other devices than CPUs
            continue
        (declared,) = [
            line
            for line in (sources / f"{module}.py").read_text(encoding="utf-8").replace(",\n", ", ").splitlines()
            if line.startswith(f"class {kind}(")
        ]
        assert "SupportsLoRA" not in declared
