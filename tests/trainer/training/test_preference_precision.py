"""Preferences are learnt in fp32, also on a base in bf16: what a pair is worth does not depend on its pack."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.trainer.order_recipes import recipe
from tests.trainer.training.conftest import CPU
from trainer.training.attention import packed_attention
from trainer.training.batching import pack
from trainer.training.loss import row_logprobs
from trainer.training.loss_mask import RenderedExample, RenderedPair
from trainer.training.model import TrainableModel, in_bf16, load_base, make_trainable
from trainer.training.preferences import DpoLoss, Reference

pytestmark = pytest.mark.numeric


@pytest.fixture
def model(base_model: Path, tmp_path: Path) -> TrainableModel:
    made = make_trainable(load_base(base_model, CPU), recipe(tmp_path, base_model, "dpo"), CPU)
    made.module.train()
    return made


def pairs(rows: Sequence[RenderedExample]) -> list[RenderedPair]:
    return [RenderedPair(one, other, one.row_id) for one, other in pairwise(rows)]


def test_an_untrained_adapter_has_a_loss_of_ln_2_in_every_pack(
    model: TrainableModel, rows: Sequence[RenderedExample]
) -> None:
    objective = DpoLoss(model, pairs(rows), beta=0.1, reference=Reference(4096))
    for batch in (range(8), range(3, 5), range(1)):
        loss = objective.summed(batch).item() / len(batch)
        # Sums over some 250 tokens of log-probabilities around 5 have an error below 1e-3 in fp32.
        assert loss == pytest.approx(0.693147, abs=1e-3)


def test_packed_rows_have_the_log_probability_they_have_alone(
    model: TrainableModel, rows: Sequence[RenderedExample]
) -> None:
    with torch.no_grad():
        for name, parameter in model.trainable_parameters.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.module.eval()
        together = row_logprobs(model, pack(rows, CPU))
        alone = torch.cat([row_logprobs(model, pack([row], CPU)) for row in rows])
    assert torch.allclose(together, alone, rtol=0, atol=0.01)


def test_what_was_widened_is_served_in_bf16_and_equals_the_base_as_it_was_read(
    model: TrainableModel, base_model: Path
) -> None:
    before = {name: buffer.dtype for name, buffer in model.base.named_buffers()}
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    served = in_bf16(model)
    assert {p.dtype for p in served.module.parameters()} == {torch.bfloat16}
    assert {name: buffer.dtype for name, buffer in model.base.named_buffers()} == before
    read = load_base(base_model, CPU).get_input_embeddings().weight
    assert torch.equal(served.base.get_input_embeddings().weight, read)


def test_attention_in_bf16_is_computed_in_fp32_on_a_cpu() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 40, 16, dtype=torch.bfloat16) for _ in range(3))
    module = torch.nn.Identity()
    answer, _ = packed_attention(module, query, key, value, None, row_tokens=(15, 25))
    exact, _ = packed_attention(module, query.double(), key.double(), value.double(), None, row_tokens=(15, 25))
    assert answer.dtype == torch.bfloat16
    # One rounding of the answer, and none within.
    assert torch.allclose(answer.double(), exact, rtol=2**-8, atol=1e-6)
