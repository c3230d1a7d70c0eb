"""LoRA on vLLM's CPU engine: the tokens of a step grouped by adapter, two matrix products per group and layer.

vLLM's own CPU ops gather an adapter's whole matrices once per token. Here a step's tokens are sorted by adapter once,
when vLLM announces them; each layer then multiplies a group's rows with its adapter's matrices, by the kernels that
vLLM chose for the base model's weights. The slices of a packed layer (q, k, v; gate, up) are one product each way.
Tokens of the base model are in no group, and a step without adapters does nothing. Design: docs/decisions/0020.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_MOST_PACKED_RANKS = 64
_EXPECTED = {
    "__init__": ("self", "max_num_batched_tokens", "max_batches", "device", "kwargs"),
    "update_metadata": ("self", "mapping", "lora_index_to_id", "max_loras", "vocab_size", "kwargs"),
    "add_lora_linear": (
        "self",
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
        "output_slices",
        "buffer",
        "kwargs",
    ),
    "add_lora_embedding": ("self", "y", "x", "lora_b_stacked", "add_inputs", "kwargs"),
    "add_lora_logits": ("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "buffer", "kwargs"),
}


@dataclass(frozen=True)
class TokenGroups:
    """The rows of a step by adapter slot.

    `slots` and `sizes` name the groups in order. `rows` picks their rows out of the step: a slice when these are
    neighbours already, else their indices.
    """

    total: int
    slots: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: slice | Tensor

    @classmethod
    def of(cls, slot_of_row: Tensor) -> "TokenGroups":
        """Group rows by slot; -1 is the base model."""
        total = len(slot_of_row)
        sorted_slots, order = torch.sort(slot_of_row, stable=True)
        slots, sizes = torch.unique_consecutive(sorted_slots, return_counts=True)
        of_base = int(sizes[0]) if total and slots[0] < 0 else 0
        order = order[of_base:]
        first = int(of_base > 0)
        rows: slice | Tensor = order
        if len(order) and torch.equal(order, torch.arange(int(order[0]), int(order[0]) + len(order))):
            rows = slice(int(order[0]), int(order[0]) + len(order))
        return cls(total, tuple(slots[first:].tolist()), tuple(sizes[first:].tolist()), rows)

    def take(self, x: Tensor) -> Sequence[Tensor]:
        """The rows of each group, one tensor per group."""
        taken = x[self.rows] if isinstance(self.rows, slice) else x.index_select(0, self.rows)
        return (taken,) if len(self.sizes) == 1 else taken.split_with_sizes(self.sizes)

    def add(self, y: Tensor, parts: Sequence[Tensor]) -> None:
        """Add one tensor per group to its rows of `y`, in place."""
        added = parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
        width = min(y.shape[1], added.shape[1])  # either may be padded
        if width < y.shape[1]:
            y = y[:, :width]
        if width < added.shape[1]:
            added = added[:, :width]
        if isinstance(self.rows, slice):
            y[self.rows].add_(added)
        else:
            y.index_add_(0, self.rows, added.to(y.dtype))


class Product:
    """Multiplication with one fixed matrix, prepared once for the kernel that vLLM chose for weights of its shape."""

    def __init__(self, weight: Tensor) -> None:
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        self.out_features = weight.shape[0]
        if weight.dtype is torch.float32:  # torch calls MKL directly; oneDNN compiles a kernel for each count of tokens
            self._transposed = weight.t().contiguous()
            self._multiply: Callable[[Tensor], Tensor] = lambda x: torch.mm(x, self._transposed)
            return
        layer = SimpleNamespace(weight=torch.nn.Parameter(weight.contiguous(), requires_grad=False))
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        self._multiply = lambda x: layer.cpu_linear(x, layer.weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [tokens, in] times the transposed weight [out, in]."""
        return self._multiply(x)


class Delta:
    """What one adapter adds to the output of one layer: x [tokens, in] -> [tokens, all slices' outputs].

    `a` and `b` are the slices' matrices, [rank, in] and [out, rank], padded by vLLM; ranks without effect are cut off.
    """

    def __init__(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        ranks = [_rank_of(a_slice, b_slice) for a_slice, b_slice in zip(a, b, strict=True)]
        self.is_empty = not any(ranks)
        if self.is_empty:
            return
        self.dtype = a[0].dtype
        self._shrink = Product(torch.cat([part[:rank] for part, rank in zip(a, ranks, strict=True)]))
        cut = [part[:, :rank] for part, rank in zip(b, ranks, strict=True)]
        self._ranks = ranks if sum(ranks) > _MOST_PACKED_RANKS and len(ranks) > 1 else [sum(ranks)]
        blocks = cut if len(self._ranks) > 1 else [torch.block_diag(*cut)]  # type: ignore[no-untyped-call]
        self._expand = [Product(block) if block.shape[1] else block.shape[0] for block in blocks]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply both matrices of every slice."""
        shrunk = self._shrink(x.to(self.dtype))
        if len(self._expand) == 1:
            return self._expanded(self._expand[0], shrunk)
        parts = shrunk.split_with_sizes(self._ranks, dim=1)
        return torch.cat([self._expanded(*pair) for pair in zip(self._expand, parts, strict=True)], dim=1)

    @staticmethod
    def _expanded(expand: Product | int, shrunk: Tensor) -> Tensor:
        return shrunk.new_zeros(len(shrunk), expand) if isinstance(expand, int) else expand(shrunk)


class EmbeddingDelta:
    """What one adapter adds to an embedding: rows of its A [tokens, rank], already looked up, times its B."""

    def __init__(self, b: Tensor) -> None:
        self.is_empty = not bool(b.any())
        if not self.is_empty:
            self.dtype = b.dtype
            self._expand = Product(b)

    def __call__(self, looked_up: Tensor) -> Tensor:
        """Apply B."""
        return self._expand(looked_up.to(self.dtype))


class GroupedLora:
    """The groups of the current step, and what each slot adds to each layer, prepared when first needed.

    Mixed into a subclass of vLLM's `PunicaWrapperCPU`, whose methods for layers it replaces.
    """

    token_lora_indices: Tensor
    sampler_indices: Tensor
    _tokens: TokenGroups
    _samples: TokenGroups
    _prepared: dict[int, tuple[Any, dict[int, Delta | EmbeddingDelta]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens = self._samples = TokenGroups(0, (), (), slice(0))
        self._prepared = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Group the tokens of the coming steps, all of them and those that are sampled from."""
        super().update_metadata(*args, **kwargs)  # type: ignore[misc]
        self._tokens = TokenGroups.of(self.token_lora_indices)
        self._samples = TokenGroups.of(self.sampler_indices)

    def forget_slot(self, slot: int) -> None:
        """Drop what was prepared for a slot: other weights lie in it now."""
        for _, of_slot in self._prepared.values():
            of_slot.pop(slot, None)

    def add_lora_linear(
        self, y: Tensor, x: Tensor, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, *_: Any, **__: Any
    ) -> None:
        """Add to `y` what the adapters of the step's tokens make of `x`."""
        if not self._tokens.slots:
            return

        def prepare(slot: int) -> Delta:
            return Delta([a[slot, 0] for a in lora_a_stacked], [b[slot, 0] for b in lora_b_stacked])

        self._add(self._tokens, y, x, lora_b_stacked, prepare, scale)

    def add_lora_embedding(self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, *_: Any, **__: Any) -> None:
        """Add to the embeddings `y` what the adapters make of the rows of A in `x`."""
        if self._tokens.slots:
            self._add(self._tokens, y, x, lora_b_stacked, lambda slot: EmbeddingDelta(lora_b_stacked[slot, 0]), 1.0)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """Add to the logits `y` what the adapters of the sampled tokens make of `x`."""
        if not self._samples.slots:
            return

        def prepare(slot: int) -> Delta:
            return Delta([lora_a_stacked[slot, 0]], [lora_b_stacked[slot, 0]])

        self._add(self._samples, y, x, lora_b_stacked, prepare, scale)

    def _add(
        self,
        groups: TokenGroups,
        y: Tensor,
        x: Tensor,
        layer: Any,
        prepare: Callable[[int], Delta | EmbeddingDelta],
        scale: float,
    ) -> None:
        known = self._prepared.get(id(layer))
        if known is None:  # kept with the stacks themselves: the number of an object that is gone may be given again
            known = self._prepared[id(layer)] = (layer, {})
        of_slot, deltas = known[1], []
        for slot in groups.slots:
            delta = of_slot.get(slot)
            if delta is None:
                delta = of_slot[slot] = prepare(slot)
            deltas.append(delta)
        if all(delta.is_empty for delta in deltas):
            return
        x, y = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if len(x) != groups.total:
            raise ValueError(f"vLLM mapped {groups.total} tokens to adapters, and a layer got {len(x)}.")
        parts = [
            x.new_zeros(len(rows), y.shape[1]) if delta.is_empty else delta(rows)
            for delta, rows in zip(deltas, groups.take(x), strict=True)
        ]
        groups.add(y, parts if scale == 1.0 else [part * scale for part in parts])


def grouped(original: type) -> type:
    """A punica wrapper for `get_punica_wrapper` in place of vLLM's own for CPUs.

    Raises when vLLM calls it otherwise than is known here, or when it does not add what plain products add.
    """
    from vllm.lora.model_manager import LoRAModelManager

    for name, expected in _EXPECTED.items():
        found = tuple(inspect.signature(getattr(original, name)).parameters)
        if found != expected:
            raise TypeError(f"{original.__name__}.{name} takes {found}, not {expected}")
    wrapper = type(original.__name__, (GroupedLora, original), {})
    _check(wrapper)
    LoRAModelManager.activate_adapter = _forgetting(LoRAModelManager.activate_adapter)
    return wrapper


def _forgetting(activate: Any) -> Any:
    def activated(manager: Any, lora_id: int) -> bool:
        is_new = bool(activate(manager, lora_id))
        if is_new:
            slot = manager.lora_index_to_id.index(lora_id)
            for wrapper in manager.punica_wrapper_mapping.values():
                wrapper.forget_slot(slot)
        return is_new

    return activated


def _check(wrapper: type) -> None:
    from vllm.lora.layers import LoRAMapping

    punica = wrapper(8, 8, "cpu")
    punica.update_metadata(LoRAMapping((7, 0, 9, 7), (7, 0, 9, 7), is_prefill=True), [9, 7], 3, 16)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, generator=random)
    a, b = torch.randn(2, 1, 4, 8, generator=random), torch.randn(2, 1, 6, 4, generator=random)
    expected = torch.zeros(4, 6)
    for row, slot in ((0, 1), (2, 0), (3, 1)):
        expected[row] = b[slot, 0] @ (a[slot, 0] @ x[row])
    added = torch.zeros(4, 6)
    punica.add_lora_linear(added, x, (a,), (b,), 1.0, (6,))
    torch.testing.assert_close(added, expected)


def _rank_of(a: Tensor, b: Tensor) -> int:
    used = (a.any(dim=1) & b.any(dim=0)).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
