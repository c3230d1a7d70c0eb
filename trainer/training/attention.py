"""Attention for padding-free batches: rows are concatenated, and no row attends to another one.

Each row goes through the causal SDPA kernel by itself, so nothing is computed across rows; a mask over the whole batch
would cost the square of its length. Works on CPU and GPU without further packages.
"""

from typing import Any

import torch
from torch.nn import functional

PACKED = "turntable_packed"


def register_packed_attention() -> None:
    """Register `attn_implementation=PACKED` with transformers; models then take the rows' lengths as `row_tokens`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    row_tokens: tuple[int, ...],
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Implement transformers' attention interface; tensors are (1, heads, tokens, head size)."""
    assert attention_mask is None, "packed rows need no mask"
    parts = zip(*(torch.split(tensor, list(row_tokens), dim=2) for tensor in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    answers = [_attend(q, k, v, scaling, sliding_window, grouped) for q, k, v in parts]
    return torch.cat(answers, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    grouped: bool,
) -> torch.Tensor:
    tokens = query.shape[2]
    if window is None or tokens <= window:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    at = torch.arange(tokens, device=query.device)
    behind = at[:, None] - at[None, :]
    mask = (behind >= 0) & (behind < window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=grouped)


def _no_mask(*_: Any, **__: Any) -> None:
    return None
