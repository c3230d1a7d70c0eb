"""What a real vLLM with our grouped LoRA answers, beside PEFT's logits: base and adapters mixed, slots reused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.gateway.engines.lora_answers import ADAPTERS, ROUNDS, VOCABULARY

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "low": LoraConfig(r=8, lora_alpha=16, target_modules=[*ATTENTION, *MLP]),
    "most": LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]),
    "high": LoraConfig(r=64, lora_alpha=64, target_modules=[*ATTENTION, *MLP], use_rslora=True),
    "ends": LoraConfig(r=16, lora_alpha=8, target_modules=["embed_tokens", "lm_head", "k_proj"]),
    "some": LoraConfig(r=32, lora_alpha=32, target_modules=["o_proj", "up_proj"], rank_pattern={"up_proj": 8}),
}

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of two layers with random weights, and PEFT adapters of it whose effect is large."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("lora")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(made / "base")
    for name in ADAPTERS:
        model = get_peft_model(LlamaForCausalLM.from_pretrained(made / "base"), CONFIGS[name])
        for parameter, weight in model.named_parameters():
            if "lora_" in parameter:
                torch.nn.init.normal_(weight, std=0.08)
        model.save_pretrained(made / name, save_embedding_layers=False)
    return made


class Reference:
    """PEFT's log-probabilities for the engine's answers, computed in one dtype."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._base = LlamaForCausalLM.from_pretrained(folder / "base", dtype=dtype)
        self._adapted = {
            name: PeftModel.from_pretrained(
                LlamaForCausalLM.from_pretrained(folder / "base", dtype=dtype), folder / name
            ).to(dtype)
            for name in ADAPTERS
        }

    def logprobs(self, name: str | None, prompt: list[int], tokens: list[int]) -> torch.Tensor:
        """[answer tokens, vocabulary] of log-probabilities, in float64."""
        model = self._adapted[name] if name else self._base
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
        return torch.log_softmax(logits.double(), -1)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def answers(request: pytest.FixtureRequest, folder: Path) -> tuple[torch.dtype, list[dict[str, Any]]]:
    """The engine's answers in one dtype."""
    script = [sys.executable, "-m", "tests.gateway.engines.lora_answers", str(folder), request.param]
    result = subprocess.run(script, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.returncode == 0, result.stderr[-3000:]
    return getattr(torch, request.param), json.loads((folder / f"{request.param}.json").read_text())


def test_every_answer_has_pefts_log_probabilities(
    folder: Path, answers: tuple[torch.dtype, list[dict[str, Any]]]
) -> None:
    """The engine is as near to PEFT in float64 as PEFT in the engine's own dtype is, within a factor of 2."""
    dtype, given = answers
    exact, same, base = Reference(folder, torch.float64), Reference(folder, dtype), []
    ours, theirs = [], []
    for answer in given:
        asked = (answer["adapter"], answer["prompt"], answer["tokens"])
        truth = exact.logprobs(*asked)
        ours.append(float((torch.tensor(answer["logprobs"], dtype=torch.float64) - truth).abs().mean()))
        theirs.append(float((same.logprobs(*asked) - truth).abs().mean()))
        if asked[0]:
            base.append(float((exact.logprobs(None, *asked[1:]) - truth).abs().mean()))
    assert len(given) == sum(map(len, ROUNDS))
    bound = 2 * max(theirs)
    assert bound < min(base) / 2, "an adapter that is missing would be seen"
    assert max(ours) < bound
