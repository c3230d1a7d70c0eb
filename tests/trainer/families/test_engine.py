"""What the trainer makes of a family is what vLLM serves; the other families by `python -m tests.trainer.families`."""

from pathlib import Path

import pytest
import torch

from tests.trainer.families.parity import served_differences

# Both compute in fp32, in another order: some thousand roundings of logits of about one.
BOUND = 1024 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_engine_answers_with_the_adapter_as_the_trainer_computes(name: str, tmp_path: Path) -> None:
    found = served_differences(name, tmp_path)
    assert found["base"] < BOUND
    assert found["adapter"] < BOUND
    assert found["effect"] > 100 * BOUND
