"""Which rows make up which optimiser step, and rows packed one behind the other as tensors.

The plan is a pure function of the rows' lengths, the recipe and the seed: an interrupted run continues in the middle of
it, and every process of a distributed run knows the whole of it. A step holds as many rows as the recipe says, whatever
their length; `max_tokens_per_batch` only decides in how many pieces they go through the model.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trainer.training.loss_mask import IGNORE_INDEX, RenderedExample


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows without any padding: `ids` and `positions` are (1, tokens), `row_tokens` their lengths.

    `learnt` are the positions whose next token is learnt, `targets` those next tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    row_tokens: tuple[int, ...]
    learnt: torch.Tensor
    targets: torch.Tensor
    learnt_per_row: tuple[int, ...]


def pack(rows: Sequence[RenderedExample], device: torch.device) -> PackedBatch:
    """Rows as one batch; the first token of a row is never a target, so no row is asked to foretell the next."""
    ids, positions = list[int](), list[int]()
    learnt, targets, counts = list[int](), list[int](), list[int]()
    for row in rows:
        before = len(ids)
        at = [i for i, label in enumerate(row.labels) if label != IGNORE_INDEX and i > 0]
        learnt += [before + i - 1 for i in at]
        targets += [row.labels[i] for i in at]
        counts.append(len(at))
        ids += row.input_ids
        positions += range(len(row.input_ids))
    return PackedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        tuple(len(row.input_ids) for row in rows),
        torch.tensor(learnt, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
        tuple(counts),
    )


def epoch_batches(rows: int, rows_per_step: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The rows of each step of an epoch, shuffled anew for every epoch; the last step may be smaller."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[start : start + rows_per_step] for start in range(0, rows, rows_per_step)]


def rank_shard(rows: Sequence[int], lengths: Sequence[int], *, rank: int, processes: int) -> list[int]:
    """One process's rows of a step: the longest go first, each to the process that has the fewest tokens."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        least = min(range(processes), key=lambda p: (tokens[p], p))
        shares[least].append(row)
        tokens[least] += lengths[row]
    return shares[rank]


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, max_rows: int, max_tokens: int
) -> Iterator[list[int]]:
    """Rows in batches of at most `max_rows` rows and, unless a single row is longer, `max_tokens` tokens."""
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
