"""Attention for padding-free batches: rows are concatenated, and no row attends to another one.

Each row goes through the causal SDPA kernel by itself, so nothing is computed across rows; a mask over the whole batch
would cost the square of its length. Works on CPU and GPU without further packages. Attention with sinks (gpt-oss) or
soft-capped scores (Gemma 2), which the kernel does not compute, is written out row by row.

On a CPU, bf16 attention is computed in fp32: the backward pass of PyTorch's bf16 kernel takes several times as long.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from trainer.errors import RunError

PACKED = "turntable_packed"
# Arguments that transformers passes through and that change nothing here; any other one that is set is refused.
_WITHOUT_EFFECT = frozenset(
    (
        "cache_position",
        "dropout",
        "is_causal",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    )
)


class UnsupportedAttention(RunError):  # noqa: N818 - the reason why packing is not used
    """A layer asks for attention that packing does not compute; the message names the layer type and the argument."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How scores become weights: scale, window in tokens, sinks (a logit per head), and cap of the scores."""

    scaling: float | None
    window: int | None
    sinks: torch.Tensor | None
    softcap: float | None


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
    row_tokens: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Implement transformers' attention interface; tensors are (1, heads, tokens, head size).

    Raises `UnsupportedAttention` for an argument that would change the result and is not computed.
    """
    _refuse_unknown(module, attention_mask, row_tokens, others)
    assert row_tokens is not None, "refused above"
    kind, precision = _Kind(scaling, sliding_window, s_aux, softcap), query.dtype
    if query.device.type == "cpu" and precision == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    parts = zip(*(torch.split(tensor, list(row_tokens), dim=2) for tensor in (query, key, value)), strict=True)
    answers = [_attend(q, k, v, kind) for q, k, v in parts]
    return torch.cat(answers, dim=2).to(precision).transpose(1, 2).contiguous(), None


def _refuse_unknown(module: torch.nn.Module, mask: object, row_tokens: object, others: dict[str, Any]) -> None:
    layer = type(module).__name__
    if row_tokens is None:
        raise UnsupportedAttention(f"{layer} does not receive the lengths of the rows")
    if mask is not None:
        raise UnsupportedAttention(f"{layer} needs an attention mask of its own")
    unknown = sorted(name for name, value in others.items() if value is not None and name not in _WITHOUT_EFFECT)
    if unknown:
        raise UnsupportedAttention(f"{layer} passes {unknown[0]} to its attention")
    if others.get("is_causal") is False:
        raise UnsupportedAttention(f"{layer} is not causal")


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: _Kind) -> torch.Tensor:
    if kind.sinks is not None or kind.softcap is not None:
        return _written_out(query, key, value, kind)
    tokens, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if kind.window is None or tokens <= kind.window:
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=kind.scaling, enable_gqa=grouped
        )
    mask = _visible(tokens, kind.window, query.device)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=kind.scaling, enable_gqa=grouped
    )


def _written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: _Kind) -> torch.Tensor:
    """Compute one row's attention with soft-capped scores or sinks; the softmax is in fp32."""
    tokens, groups = query.shape[2], query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if kind.scaling is None else kind.scaling)
    if kind.softcap is not None:
        scores = kind.softcap * torch.tanh(scores / kind.softcap)
    scores = scores.float().masked_fill(~_visible(tokens, kind.window, query.device), float("-inf"))
    if kind.sinks is not None:
        sinks = kind.sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    return scores.softmax(-1)[..., :tokens].to(value.dtype) @ value


def _visible(tokens: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return which position (row) sees which (column): the last `window` ones up to itself."""
    at = torch.arange(tokens, device=device)
    behind = at[:, None] - at[None, :]
    return (behind >= 0) & (behind < (tokens if window is None else window))


def _no_mask(*_: Any, **__: Any) -> None:
    return None
