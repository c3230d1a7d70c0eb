import pytest
import torch
from torch.nn import functional
from transformers import get_scheduler

from trainer.training.loss import CHUNK_TOKENS, summed_cross_entropy
from trainer.training.optimizer import learning_rate_factor, step_seed

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("tokens", [1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 3 * CHUNK_TOKENS + 7])
def test_loss_and_gradients_in_chunks_are_those_of_the_full_logits(tokens: int) -> None:
    torch.manual_seed(tokens)
    hidden, head = torch.randn(tokens, 24, requires_grad=True), torch.randn(60, 24, requires_grad=True)
    targets = torch.randint(60, (tokens,))
    chunked = torch.autograd.grad(summed_cross_entropy(hidden, head, targets), (hidden, head))
    full_loss = functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    assert summed_cross_entropy(hidden, head, targets).item() == pytest.approx(full_loss.item(), rel=1e-5)
    for one, other in zip(chunked, torch.autograd.grad(full_loss, (hidden, head)), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_a_frozen_head_gets_no_gradient_and_a_scaled_loss_scaled_ones() -> None:
    hidden, head, targets = torch.randn(9, 4, requires_grad=True), torch.randn(7, 4), torch.arange(9) % 7
    (plain,) = torch.autograd.grad(summed_cross_entropy(hidden, head, targets), hidden)
    (halved,) = torch.autograd.grad(summed_cross_entropy(hidden, head, targets) / 2, hidden)
    assert torch.allclose(plain / 2, halved)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup", "constant"])
def test_the_learning_rate_falls_as_in_transformers_but_wastes_no_step_on_zero(kind: str) -> None:
    steps, warmup = 40, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    theirs = []
    for _ in range(steps):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate_factor(step, steps, kind=kind, warmup_fraction=0.1) for step in range(1, steps + 1)]
    assert ours[warmup:] == pytest.approx(theirs[warmup:])
    assert ours[0] > 0
    assert max(ours) == 1


def test_every_step_and_process_has_random_numbers_of_its_own() -> None:
    seeds = {step_seed(seed, step, rank) for seed in (0, 1) for step in range(1, 50) for rank in (0, 1)}
    assert len(seeds) == 2 * 49 * 2
