"""Assign rows to optimizer steps, ranks and micro-batches, and concatenate the rows of a micro-batch without padding.

The assignment is a pure function of the rows' lengths, the recipe and the seed: a run resumes in the middle of it, and
every rank of a distributed run knows all of it. The recipe sets the rows of a step; `max_tokens_per_batch` only sets
how many micro-batches they go through the model in.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample

if TYPE_CHECKING:
    from trainer.training.distributed import DistributedState


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A padding-free batch: `ids` and `positions` are (1, tokens), `row_tokens` the length of each row.

    `loss_positions` are the indexes whose next token is in the loss, `targets` those next tokens. `loss_weights` are
    the factors of their losses, None where all are 1.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    row_tokens: tuple[int, ...]
    loss_positions: torch.Tensor
    targets: torch.Tensor
    loss_tokens_per_row: tuple[int, ...]
    loss_weights: torch.Tensor | None = None


def pack(rows: Sequence[RenderedExample], device: torch.device) -> PackedBatch:
    """Concatenate rows; the first token of a row is never a target, so no row predicts the next one."""
    ids, positions = list[int](), list[int]()
    loss_positions, targets, counts, weights = list[int](), list[int](), list[int](), list[float]()
    for row in rows:
        before = len(ids)
        at = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX and i > 0]
        loss_positions += [before + i - 1 for i in at]
        targets += [row.labels[i] for i in at]
        counts.append(len(at))
        weights += (row.loss_weights or (1.0,) * len(at))[-len(at) :] if at else ()
        ids += row.input_ids
        positions += range(len(row.input_ids))
    return PackedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        tuple(len(row.input_ids) for row in rows),
        torch.tensor(loss_positions, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        tuple(counts),
        torch.tensor(weights, device=device) if any(weight != 1 for weight in weights) else None,
    )


def epoch_batches(rows: int, rows_per_step: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the rows of each step of an epoch, in an order of its own; the last step may be smaller."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[start : start + rows_per_step] for start in range(0, rows, rows_per_step)]


def rank_shard(rows: Sequence[int], lengths: Sequence[int], *, rank: int, world_size: int) -> list[int]:
    """Return one rank's rows of a step: longest first, each goes to the rank with the fewest tokens."""
    shards: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        least = min(range(world_size), key=lambda p: (tokens[p], p))
        shards[least].append(row)
        tokens[least] += lengths[row]
    return shards[rank]


def rank_batches(
    rows: Sequence[int], lengths: Sequence[int], *, max_rows: int, max_tokens: int, distributed: "DistributedState"
) -> Iterator[tuple[list[int], bool]]:
    """Cut this rank's rows into micro-batches; yield each, and whether it counts.

    With FSDP a pass gathers the layers from all ranks, so every rank makes as many: one with fewer batches repeats the
    shortest of all rows, which does not count. All ranks call it.
    """
    batches = list(micro_batches(rows, lengths, max_rows=max_rows, max_tokens=max_tokens))
    passes = int(distributed.max(len(batches))) if distributed.fsdp else len(batches)
    shortest = min(range(len(lengths)), key=lengths.__getitem__)
    yield from ((batch, True) for batch in batches)
    yield from [([shortest], False)] * (passes - len(batches))


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, max_rows: int, max_tokens: int
) -> Iterator[list[int]]:
    """Cut rows into batches of at most `max_rows` rows and, unless a single row is longer, `max_tokens` tokens."""
    batch: list[int] = []
    tokens = 0
    for row in rows:
        if batch and (len(batch) == max_rows or tokens + lengths[row] > max_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += lengths[row]
    if batch:
        yield batch
