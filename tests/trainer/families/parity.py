"""Prepare a family's model and adapter for the engine, and measure how far its answers are from plain PEFT's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapters import BaseModel
from tests.trainer.families.configs import build
from tests.trainer.families.measure import CPU, rows
from trainer.errors import RunError
from trainer.training import model as model_module
from trainer.training.artifacts import adapter_config, write_json
from trainer.training.model import adapter_tensors, add_adapter, load_base
from trainer.training.recipe import Lora
from trainer.training.targets import checkpoint_prefix, refuse_unbound, refuse_unserved, renamed

LORA = Lora(r=8, lora_dropout=0.0)


def served_differences(name: str, folder: Path) -> dict[str, float]:
    """Return the largest differences of a log-probability, of the base and with the adapter; raises `RunError`."""
    effect = prepare(name, folder)
    command = [sys.executable, "-m", "tests.trainer.families.engine", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or not lines:
        errors = [line for line in ran.stderr.splitlines() if "Error" in line]
        raise RunError(f"the engine does not serve it: {errors[-1][-160:] if errors else ran.returncode}")
    found: dict[str, float] = json.loads(lines[-1])
    return {**found, "effect": effect}


def prepare(name: str, folder: Path) -> float:
    """Write base, adapter and expected log-probabilities; returns the adapter's largest effect on one."""
    build(name, hidden_size=128, head_dim=32).save_pretrained(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_module, "PRECISION", torch.float32)
        base = load_base(folder / "base", CPU)
        model = add_adapter(base, LORA, CPU, seed=0)
    described = BaseModel.read(folder / "base")
    refuse_unserved(base.config.architectures or (), name)
    with torch.no_grad():
        for key, parameter in model.trainable_parameters.items():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
    prefix = checkpoint_prefix(base, described)
    tensors = {renamed(key, prefix): tensor.contiguous() for key, tensor in adapter_tensors(model).items()}
    refuse_unbound(tensors, described)
    (folder / "adapter").mkdir()
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    targets = tuple(renamed(target, prefix) for target in model.target_modules)
    write_json(folder / "adapter" / "adapter_config.json", adapter_config(LORA, name, targets))
    base.set_attn_implementation("eager")
    model.module.eval()
    adapter = [logprobs(base, row.input_ids) for row in rows()]
    with model.without_adapter():
        alone = [logprobs(base, row.input_ids) for row in rows()]
    document = {"rows": [row.input_ids for row in rows()], "base": alone, "adapter": adapter}
    (folder / "expected.json").write_text(json.dumps(document), encoding="utf-8")
    return max(abs(a - b) for x, y in zip(adapter, alone, strict=True) for a, b in zip(x, y, strict=True))


@torch.no_grad()
def logprobs(model: Any, ids: list[int]) -> list[float]:
    """Return the log-probability of every token but the first."""
    told = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float().log_softmax(-1)
    picked: list[float] = told.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1).tolist()
    return picked
