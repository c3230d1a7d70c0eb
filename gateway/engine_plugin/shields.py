"""Shields against known defects of the engine, each with a name that operators see in `GET /admin/v1/engines`.

vLLM loads this module through the entry point group `vllm.general_plugins` in every engine process and calls
`register`. A shield replaces one function of vLLM; torch and vLLM are imported only when it does.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_PAUSE_S = 50e-6


def register() -> None:
    """Apply every CPU shield to this process; does nothing on other platforms, and nothing when called again."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for apply in CPU_SHIELDS.values():
            apply()


def mend_mixed_batches() -> None:
    """On CPU, base tokens batched with adapter tokens get the adapter of the last slot (vLLM PR 48421, PR 49656).

    vLLM marks a token without an adapter by slot index -1, and its CPU ops use that index to gather, which in torch
    means the last slot. The shrunk activations of such tokens are zeroed, so whatever is gathered adds nothing.
    """
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    shrink = lora_ops.bgmv_shrink
    if getattr(shrink, "turntable_shield", False):
        return

    def shielded_shrink(
        inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, scaling)
        if len(lora_indices_tensor) == len(output_tensor):  # not so for prompt log-probabilities, refused at the gate
            output_tensor[lora_indices_tensor < 0] = 0

    shielded_shrink.turntable_shield = True  # type: ignore[attr-defined]
    for module in (lora_ops, torch_ops, punica_cpu):
        module.bgmv_shrink = shielded_shrink


def sleep_instead_of_spinning() -> None:
    """On few cores, waiting engine processes spin on `sched_yield` and starve everybody else for seconds.

    Measured on two cores: a stream stood still for 3 s, a cancelled request ran to its end, and an unrelated process
    slept 3.9 s instead of 5 ms. A short sleep costs no throughput there.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    def pause() -> None:
        time.sleep(_PAUSE_S)

    shm_broadcast.sched_yield = pause


CPU_SHIELDS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"cpu-mixed-batch": mend_mixed_batches, "cpu-spin": sleep_instead_of_spinning}
)
