"""The training of the base model: plain torch, two workers, the same bytes from the same seed.

Each worker computes on one thread with its own replica, and the replicas share one bf16 copy of the weights. AdamW
works on an fp32 copy. Two single threads that meet once per step are as fast as one computation spread over two, and
unlike that they do not collapse when something else wants a core. Their number is fixed, so results do not depend on
the machine.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

WORKERS = 2
PEAK_LEARNING_RATE = 4e-3
WARMUP_STEPS = 40
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
EMBEDDING_SCALE = 3.0  # times the usual standard deviation of 0.02


class TrainingStep(NamedTuple):
    """One optimizer step: how many are done of how many, the mean loss of its tokens, tokens and seconds so far."""

    step: int
    steps: int
    loss: float
    tokens: int
    elapsed_s: float


def pack(documents: Sequence[list[int]], row_tokens: int) -> torch.Tensor:
    """Documents one after the other in rows of `row_tokens`; the tail that fills no row is left out."""
    stream = [token for document in documents for token in document]
    rows = len(stream) // row_tokens
    return torch.tensor(stream[: rows * row_tokens]).view(rows, row_tokens)


def answered(rows: torch.Tensor, assistant: int, special_tokens: int) -> torch.Tensor:
    """Where the next token belongs to an assistant's turn, its end included; one column less than `rows`.

    Special tokens have the lowest ids; the last one that opens a turn says whose turn it is.
    """
    positions = torch.arange(rows.shape[1]).expand_as(rows)
    opened = torch.where(rows < special_tokens, positions, 0).cummax(1).values
    return (rows.gather(1, opened) == assistant)[:, :-1]


def train(
    config: "LlamaConfig",
    rows: torch.Tensor,
    learnt: torch.Tensor,
    *,
    rows_per_step: int,
    seed: int,
    report: Callable[[TrainingStep], None],
) -> "LlamaForCausalLM":
    """Train a new model of this config on the rows in their order, each seen once, and return it in bf16.

    The loss is taken over the tokens marked in `learnt` alone.
    """
    with _one_thread_per_worker():
        torch.manual_seed(seed)
        replicas = _replicas(config)
        weights = list(replicas[0].parameters())
        masters = [weight.detach().float().clone() for weight in weights]
        optimizer = torch.optim.AdamW(_decay_groups(masters), lr=0.0, betas=BETAS, fused=True)
        steps = len(rows) // rows_per_step
        starts = range(0, steps * rows_per_step, rows_per_step)
        start_s = time.monotonic()
        with ThreadPoolExecutor(WORKERS) as pool:
            for step, start in enumerate(starts, 1):
                batch, marks = (part[start : start + rows_per_step] for part in (rows, learnt))
                parts = pool.map(_backward, replicas, batch.chunk(WORKERS), marks.chunk(WORKERS))
                loss = math.fsum(parts) / WORKERS
                _collect_gradients(masters, replicas)
                torch.nn.utils.clip_grad_norm_(masters, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, steps)
                optimizer.step()
                with torch.no_grad():
                    torch._foreach_copy_(weights, masters)
                report(TrainingStep(step, steps, loss, step * batch.numel(), time.monotonic() - start_s))
    return replicas[0]


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a thirtieth of the peak."""
    warmup = min(WARMUP_STEPS, steps)
    if step <= warmup:
        return PEAK_LEARNING_RATE * step / warmup
    return PEAK_LEARNING_RATE * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


@contextmanager
def _one_thread_per_worker() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _replicas(config: "LlamaConfig") -> list["LlamaForCausalLM"]:
    from transformers import LlamaForCausalLM

    replicas = [LlamaForCausalLM(config).to(torch.bfloat16) for _ in range(WORKERS)]
    _quiet_start(replicas[0])
    for replica in replicas[1:]:
        for own, shared in zip(replica.parameters(), replicas[0].parameters(), strict=True):
            own.data = shared.data
    return replicas


@torch.no_grad()
def _quiet_start(model: "LlamaForCausalLM") -> None:
    """Every layer begins by adding nothing, over larger embeddings: this learns in half the steps what counts here."""
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.zero_()
        elif "embed_tokens" in name:
            weight.mul_(EMBEDDING_SCALE)


def _decay_groups(masters: list[torch.Tensor]) -> list[dict[str, object]]:
    matrices = [master for master in masters if master.dim() > 1]
    vectors = [master for master in masters if master.dim() == 1]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]


def _backward(replica: "LlamaForCausalLM", rows: torch.Tensor, learnt: torch.Tensor) -> float:
    replica.zero_grad(set_to_none=True)
    hidden = replica.model(input_ids=rows, use_cache=False).last_hidden_state[:, :-1]
    logits = replica.lm_head(hidden[learnt])  # the vocabulary is the dearest layer: only for tokens that are learnt
    loss = functional.cross_entropy(logits.float(), rows[:, 1:][learnt])
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _collect_gradients(masters: list[torch.Tensor], replicas: list["LlamaForCausalLM"]) -> None:
    for master, *shares in zip(masters, *(replica.parameters() for replica in replicas), strict=True):
        master.grad = torch.stack([share.grad.float() for share in shares if share.grad is not None]).mean(0)
