"""The learning rate over the steps of a run, and the random numbers of each step."""

import hashlib
import math


def learning_rate_factor(step: int, steps: int, *, kind: str, warmup_fraction: float) -> float:
    """The share of the peak learning rate at `step`, which counts from 1; `kind` is transformers' lr_scheduler_type.

    Warm-up rises to the peak, its first step included; after it, linear and cosine fall towards zero.
    """
    warmup = 0 if kind == "constant" else math.ceil(warmup_fraction * steps)
    if step <= warmup:
        return step / warmup
    done = (step - 1 - warmup) / max(1, steps - warmup)
    if kind == "linear":
        return 1 - done
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one process's random numbers in one step: a run that was interrupted draws the same ones."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7])
