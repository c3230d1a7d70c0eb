"""Our grouped LoRA operation beside a naive reference in float64, and what is left of it in a vLLM that has changed."""

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gateway.engines.plugin.lora_cpu import GroupedLora, TokenGroups, grouped
from gateway.engines.plugin.patches import PATCHES

with warnings.catch_warnings(action="ignore"):
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, as vLLM loads its parts
MOST_TOKENS, MAX_RANK, SLOTS = 96, 64, 4
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


class Punica(GroupedLora, PunicaWrapperCPU):  # type: ignore[misc]
    """The wrapper as an engine gets it."""


class Layer:
    """A LoRA layer's stacks as vLLM keeps them, a slice each: [slots, 1, max rank, in], [slots, 1, out, max rank]."""

    def __init__(self, inputs: int, outputs: tuple[int, ...], dtype: torch.dtype) -> None:
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.a = tuple(torch.zeros(SLOTS, 1, MAX_RANK, inputs, dtype=dtype) for _ in outputs)
        self.b = tuple(torch.zeros(SLOTS, 1, out, MAX_RANK, dtype=dtype) for out in outputs)

    def fill(self, slot: int, ranks: tuple[int, ...], random: torch.Generator) -> None:
        """Put an adapter with a rank for each slice into a slot; rank 0 leaves a slice alone."""
        for rank, a, b in zip(ranks, self.a, self.b, strict=True):
            a[slot] = b[slot] = 0
            a[slot, 0, :rank] = torch.randn(rank, self.inputs, generator=random).to(self.dtype) / self.inputs**0.5
            b[slot, 0, :, :rank] = torch.randn(b.shape[2], rank, generator=random).to(self.dtype)

    def expected(self, y: Tensor, x: Tensor, slots: list[int]) -> tuple[Tensor, Tensor]:
        """Output for each row in float64, and the sum of absolute products that its rounding is measured by."""
        exact, size = y.double(), y.double().abs()
        for row, slot in enumerate(slots):
            if slot < 0:
                continue
            deltas, sizes = [], []
            for a, b in zip(self.a, self.b, strict=True):
                a64, b64 = a[slot, 0].double(), b[slot, 0].double()
                deltas.append(b64 @ (a64 @ x[row].double()))
                sizes.append(b64.abs() @ (a64.abs() @ x[row].double().abs()))
            exact[row] += torch.cat(deltas)
            size[row] += torch.cat(sizes)
        return exact, size

    def bound(self, size: Tensor) -> Tensor:
        """Rounding of shrunk, expanded and summed values to the dtype, and of the sums of products in fp32."""
        return (4 * UNIT[self.dtype] + (self.inputs + MAX_RANK) * UNIT[torch.float32]) * size


def punica(slots: list[int]) -> Punica:
    """A wrapper that was told of one step's tokens; adapter n + 1 lies in slot n."""
    made = Punica(MOST_TOKENS, MOST_TOKENS, torch.device("cpu"))
    tell(made, slots)
    return made


def tell(wrapper: Punica, slots: list[int]) -> None:
    """Announce a step, as vLLM does."""
    ids = tuple(slot + 1 for slot in slots)
    wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill=True), list(range(1, SLOTS + 1)), SLOTS + 1, 32)


shapes = st.sampled_from([(64, (96,)), (64, (64, 32, 32)), (96, (128, 128)), (128, (33,))])
ranks = st.tuples(*[st.sampled_from([0, 1, 8, 16, 64])] * 3)
steps = st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=MOST_TOKENS)


@pytest.mark.numeric
@settings(max_examples=60, deadline=None)
@given(shapes, st.lists(ranks, min_size=SLOTS, max_size=SLOTS), steps, st.sampled_from(list(UNIT)), st.integers(0, 99))
def test_every_row_gets_its_own_adapter_and_nothing_else(
    shape: tuple[int, tuple[int, ...]],
    ranks: list[tuple[int, int, int]],
    slots: list[int],
    dtype: torch.dtype,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    layer = Layer(*shape, dtype)
    for slot, of_slot in enumerate(ranks):
        layer.fill(slot, of_slot[: len(layer.outputs)], random)
    x = torch.randn(len(slots), layer.inputs, generator=random).to(dtype)
    y = torch.randn(len(slots), sum(layer.outputs), generator=random).to(dtype)
    exact, size = layer.expected(y, x, slots)
    added = y.clone()
    punica(slots).add_lora_linear(added, x, layer.a, layer.b, 1.0, layer.outputs)
    assert ((added.double() - exact).abs() <= layer.bound(size)).all()
    untouched = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(added[untouched], y[untouched]), "rows of the base keep every bit"


@given(steps)
def test_groups_take_and_give_back_every_row_of_an_adapter_once(slots: list[int]) -> None:
    groups = TokenGroups.of(torch.tensor(slots))
    numbers = torch.arange(len(slots)).unsqueeze(1)
    taken = groups.take(numbers) if groups.slots else ()
    assert {slot: rows.flatten().tolist() for slot, rows in zip(groups.slots, taken, strict=True)} == {
        slot: [row for row, found in enumerate(slots) if found == slot] for slot in sorted(set(slots) - {-1})
    }
    counted = torch.zeros(len(slots), 1)
    if groups.slots:
        groups.add(counted, [torch.ones(size, 1) for size in groups.sizes])
    assert counted.flatten().tolist() == [float(slot >= 0) for slot in slots]


def test_weights_that_replace_others_in_a_slot_answer_from_the_next_step_on() -> None:
    random = torch.Generator().manual_seed(0)
    layer, wrapper, x = Layer(64, (32,), torch.float32), punica([0, -1, 1]), torch.randn(3, 64)

    def answer() -> Tensor:
        y = torch.zeros(3, 32)
        wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.outputs)
        return y

    layer.fill(0, (8,), random)
    layer.fill(1, (8,), random)
    before = answer()
    layer.fill(0, (16,), random)
    wrapper.forget_slot(0)
    after = answer()
    assert not torch.allclose(before[0], after[0])
    exact, size = layer.expected(torch.zeros(3, 32), x, [0, -1, 1])
    assert ((after.double() - exact).abs() <= layer.bound(size)).all()
    assert torch.equal(before[1:], after[1:])


def test_an_embedding_and_logits_get_the_adapters_of_their_rows() -> None:
    """The rows of A come looked up for an embedding; logits may be padded, and have a row per sampled token."""
    random = torch.Generator().manual_seed(0)
    wrapper = punica([2, -1, 0])
    embedding, head = Layer(64, (32,), torch.float32), Layer(64, (32,), torch.float32)
    for layer in (embedding, head):
        layer.fill(0, (8,), random)
        layer.fill(2, (64,), random)
    looked_up, x = torch.randn(3, MAX_RANK), torch.randn(3, 64)
    embedded, logits = torch.zeros(3, 32), torch.zeros(3, 40)
    wrapper.add_lora_embedding(embedded, looked_up, embedding.b[0])
    wrapper.add_lora_logits(logits, x, head.a[0], head.b[0], 1.0)
    looked_up[1] = 0
    expected = torch.stack([embedding.b[0][slot, 0] @ row for slot, row in zip((2, -1, 0), looked_up, strict=True)])
    torch.testing.assert_close(embedded, expected, rtol=MAX_RANK * UNIT[torch.float32], atol=1e-5)
    exact, size = head.expected(torch.zeros(3, 32), x, [2, -1, 0])
    assert ((logits[:, :32].double() - exact).abs() <= head.bound(size)).all()
    assert not logits[:, 32:].any()


def test_rows_that_nobody_mapped_are_an_error_and_no_guess() -> None:
    layer, wrapper = Layer(64, (32,), torch.float32), punica([0, 0])
    layer.fill(0, (8,), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="mapped 2 tokens to adapters, and a layer got 3"):
        wrapper.add_lora_linear(torch.zeros(3, 32), torch.zeros(3, 64), layer.a, layer.b, 1.0, (32,))


class OtherArguments(PunicaWrapperCPU):  # type: ignore[misc]
    """A vLLM that calls an operation with something new."""

    def add_lora_linear(self, y: Tensor, x: Tensor, stacks: Any) -> None:
        """Never called."""


def test_a_wrapper_that_is_called_otherwise_is_refused() -> None:
    with pytest.raises(TypeError, match=r"add_lora_linear takes .*'stacks'"):
        grouped(OtherArguments)


CHANGED = """
import logging
logging.basicConfig()
{change}
from gateway.engines.plugin.patches import applied_patches, register
register()
print(*applied_patches())
"""
CHANGES = {
    "cpu-slow-lora": [
        "from vllm.lora.punica_wrapper import punica_cpu; del punica_cpu.PunicaWrapperCPU",
        "from vllm.lora import model_manager; del model_manager.LoRAModelManager.activate_adapter",
        "from vllm.lora.punica_wrapper import utils, punica_base as p; c = p.convert_mapping\n"
        "p.convert_mapping = lambda *a: (lambda m: (-1 - m[0], *m[1:]))(c(*a))",
    ],
    "cpu-slow-norms": [
        "import vllm.kernels; from vllm import ir; del ir.ops.rms_norm.impls['native']",
        "import vllm.kernels; from vllm import ir\n"
        "ir.ops.rms_norm.impls['native'].impl_fn = lambda x, weight, epsilon, size=None: x",
    ],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, made in CHANGES.items() for change in made])
def test_a_patch_that_does_not_fit_is_left_out_and_said_and_the_others_stay(name: str, change: str) -> None:
    script = CHANGED.format(change=change)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    applied = set(result.stdout.split("\n")[-2].split())
    assert applied == {patch.name for patch in PATCHES if patch.replacement is not None} - {name}
    assert f"Patch {name} does not fit vLLM" in result.stderr
