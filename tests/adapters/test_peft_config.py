"""adapter_config.json: what is served is read, and each field that is not is refused by its name."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters import PreflightError
from adapters.peft_config import PeftConfig, read_peft_config
from tests.adapters.conftest import Adapter


def read(directory: Path, **changes: Any) -> PeftConfig:
    document = {name: value for name, value in (Adapter().config | changes).items() if value is not ...}
    (directory / "adapter_config.json").write_text(json.dumps(document))
    return read_peft_config(directory)


def test_the_fields_that_decide_serving_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, r=4, lora_alpha=8, target_modules=["v_proj", "q_proj"])
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8.0, ("q_proj", "v_proj"))
    assert config.raw == Adapter().config | {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}


def test_one_pattern_may_name_the_target_modules(tmp_path: Path) -> None:
    assert read(tmp_path, target_modules=r".*\.(q|v)_proj").target_modules == (r".*\.(q|v)_proj",)


def test_the_largest_rank_of_the_pattern_counts(tmp_path: Path) -> None:
    assert read(tmp_path, r=8, rank_pattern={"q_proj": 32, "v_proj": 4}).max_rank == 32
    assert read(tmp_path, r=8, rank_pattern={"v_proj": 4}).max_rank == 8
    assert read(tmp_path, r=8, rank_pattern=None).max_rank == 8


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", ...])
def test_inits_that_leave_the_base_alone_are_served(tmp_path: Path, init: object) -> None:
    assert read(tmp_path, init_lora_weights=init).r == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "ADALORA"),
        ("peft_type", "lora"),
        ("peft_type", ...),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_dora", True),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [5]),
        ("trainable_token_indices", {"embed_tokens": [5]}),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 0.0001}),
        ("monteclora_config", {"num_samples": 4}),
        ("velora_config", {"rank": 8}),
        ("arrow_config", {"top_k": 3}),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", ["gaussian"]),
        ("r", 0),
        ("r", -8),
        ("r", 8.0),
        ("r", "8"),
        ("r", True),
        ("r", ...),
        ("lora_alpha", 0),
        ("lora_alpha", -16),
        ("lora_alpha", "16"),
        ("lora_alpha", True),
        ("lora_alpha", ...),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": "8"}),
        ("rank_pattern", {"q_proj": True}),
        ("target_modules", []),
        ("target_modules", ""),
        ("target_modules", [1]),
        ("target_modules", None),
        ("target_modules", {"q_proj": True}),
    ],
)
def test_a_field_that_cannot_be_served_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(PreflightError) as refused:
        read(tmp_path, **{field: value})
    assert refused.value.where == f"adapter_config.json: {field}"
    assert str(refused.value).startswith(f"{refused.value.where}: ")
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[]",
        b'"LORA"',
        b"null",
        b'{"peft_type": "LORA", "r": 8, "lora_alpha": NaN, "target_modules": ["q_proj"]}',
        b'{"peft_type": "LORA", "r": 8, "lora_alpha": 1e999, "target_modules": ["q_proj"]}',
        b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["\\ud800"]}',
        b"[" * 100_000,
    ],
)
def test_a_document_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(PreflightError, match=r"^adapter_config\.json: is not .*; save the adapter again\.$") as refused:
        read_peft_config(tmp_path)
    assert refused.value.where == "adapter_config.json"


def test_a_directory_without_the_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"^adapter_config\.json: is missing"):
        read_peft_config(tmp_path)
