"""Packing is exact: rows in one pack give the losses, log-probabilities and gradients they give one by one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tests.trainer.training.conftest import CPU, MakeModel
from trainer.training.attention import PACKED, register_packed_attention
from trainer.training.batching import pack
from trainer.training.loss import SupervisedLoss, token_logprobs
from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample

pytestmark = pytest.mark.numeric


def stock_loss(model: LlamaForCausalLM, row: RenderedExample) -> torch.Tensor:
    """The row's summed loss by the library's own forward pass, one row at a time, over the full logits."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
    labels = torch.tensor(row.labels[1:])
    return functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


def stock_losses(base_model: Path, rows: Sequence[RenderedExample], dtype: torch.dtype) -> torch.Tensor:
    stock = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype, attn_implementation="sdpa").eval()
    with torch.no_grad():
        return torch.stack([stock_loss(stock, row) for row in rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rows_have_the_loss_they_have_alone(
    base_model: Path, rows: Sequence[RenderedExample], make_model: MakeModel, dtype: torch.dtype
) -> None:
    exact = stock_losses(base_model, rows, torch.float32)
    with torch.no_grad():
        packed = SupervisedLoss(make_model(strength=0.0, dtype=dtype), rows).summed(range(len(rows))).item()
    # The library's own errors in bf16, row by row: ours may add up to as much, and to 1e-5 of the loss in fp32.
    of_bf16 = float((stock_losses(base_model, rows, torch.bfloat16) - exact).abs().sum())
    allowed = 2 * of_bf16 if dtype == torch.bfloat16 else 1e-5 * float(exact.sum())
    assert packed == pytest.approx(float(exact.sum()), abs=allowed)


def test_packed_rows_have_the_gradients_they_have_alone(make_model: MakeModel, rows: Sequence[RenderedExample]) -> None:
    one = make_model()
    objective = SupervisedLoss(one, rows)

    def gradients(*batches: Sequence[int]) -> torch.Tensor:
        one.module.zero_grad()
        for batch in batches:
            objective.summed(batch).backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in one.trainable_parameters.values() if p.grad is not None])

    everything = range(len(rows))
    together, alone = gradients(everything), gradients(*([row] for row in everything))
    assert together.norm() > 0
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))


def test_what_lies_before_a_row_in_its_pack_does_not_matter(
    make_model: MakeModel, rows: Sequence[RenderedExample]
) -> None:
    one = make_model()
    one.module.eval()
    with torch.no_grad():
        behind_short, behind_long = (one.hidden(pack([before, rows[5]], CPU))[-5:] for before in (rows[0], rows[7]))
    assert torch.allclose(behind_short, behind_long, atol=1e-5)


def test_no_token_is_foretold_across_the_border_of_two_rows(rows: Sequence[RenderedExample]) -> None:
    packed = pack(rows[:3], CPU)
    starts = [0]
    for tokens in packed.row_tokens:
        starts.append(starts[-1] + tokens)
    assert packed.ids[0].tolist() == [token for row in rows[:3] for token in row.input_ids]
    assert packed.targets.tolist() == [label for row in rows[:3] for label in row.labels if label != IGNORE_INDEX]
    assert [packed.ids[0, at + 1].item() for at in packed.loss_positions.tolist()] == packed.targets.tolist()
    assert not {start - 1 for start in starts} & set(packed.loss_positions.tolist())
    assert packed.positions[0, starts[1]].item() == 0


@pytest.mark.parametrize("kind", ["grouped heads", "sliding window"])
def test_other_kinds_of_attention_are_exact_too(kind: str) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model: LlamaForCausalLM | MistralForCausalLM
    if kind == "grouped heads":
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    else:
        model = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=4))
    lengths = (3, 9, 14)
    ids = [torch.randint(50, (1, length)) for length in lengths]
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        alone = torch.cat([model(input_ids=row).logits for row in ids], dim=1)
        register_packed_attention()
        model.set_attn_implementation(PACKED)
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        packed = model(input_ids=torch.cat(ids, dim=1), position_ids=positions, row_tokens=lengths, use_cache=False)
    assert torch.allclose(packed.logits, alone, atol=1e-5)


def test_logprobs_in_chunks_are_those_of_the_full_logits() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(1300, 16, requires_grad=True), torch.randn(40, 16)
    targets = torch.randint(40, (1300,))
    logprobs = token_logprobs(hidden, head, targets)
    expected = torch.log_softmax(hidden @ head.T, 1).gather(1, targets[:, None]).squeeze(1)
    assert torch.allclose(logprobs, expected, atol=1e-5)
    (chunked,) = torch.autograd.grad(logprobs.square().sum(), hidden)
    (full,) = torch.autograd.grad(expected.square().sum(), hidden)
    assert torch.allclose(chunked, full, atol=1e-3)
