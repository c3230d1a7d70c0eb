"""How far bf16 may be from the truth: no further than the library's own bf16 is, measured on this very processor.

Kernels round differently from one instruction set to another, so a bound that was seen on one machine fails on the
next. The truth is the same model computed in fp32.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

# Two independent roundings of one size: their root mean squares over some tens of tokens stay within this factor.
_AS_EXACT = 2.0


def loss_token_logprobs(model: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """The log-probability of each learnt token of parity rows, each row alone, by the library's own forward pass."""
    told = []
    with torch.no_grad():
        for row in rows:
            logprobs = model(torch.tensor([row["input_ids"]])).logits[0].float().log_softmax(-1)
            told += [logprobs[at - 1, row["input_ids"][at]] for at in row["positions"]]
    return torch.stack(told)


def assert_as_exact(ours: Sequence[float], library: torch.Tensor, exact: torch.Tensor) -> None:
    """Our numbers in bf16 are as near to those in fp32 as the library's are in bf16."""
    error, usual = _rms(torch.tensor(ours) - exact), _rms(library - exact)
    assert usual > 0, "the library computed in fp32 twice"
    assert error <= _AS_EXACT * usual, f"off by {error:.4f}, bf16 accounts for {usual:.4f}"


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
