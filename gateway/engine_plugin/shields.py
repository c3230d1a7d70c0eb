"""Shield `cpu-mixed-batch`: on CPU engines, base tokens batched with adapter tokens get the adapter of the last slot.

vLLM marks a token without an adapter by slot index -1, and its CPU ops use that index to gather, which in torch means
the last slot. The shield zeroes the shrunk activations of such tokens, so whatever is gathered for them adds nothing.
Loaded by vLLM through the entry point group `vllm.general_plugins`, in every engine process. vLLM issues: PR 48421,
PR 49656.
"""

from typing import Any


def register() -> None:
    """Mend the CPU LoRA ops of this process; does nothing on other platforms, and nothing when called again."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _mend_cpu_shrink()


def _mend_cpu_shrink() -> None:
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops

    shrink = lora_ops.bgmv_shrink
    if getattr(shrink, "turntable_shield", False):
        return

    def shielded_shrink(
        inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, scaling)
        output_tensor[lora_indices_tensor < 0] = 0

    shielded_shrink.turntable_shield = True  # type: ignore[attr-defined]
    lora_ops.bgmv_shrink = shielded_shrink
    torch_ops.bgmv_shrink = shielded_shrink
    _replace_in_wrapper(shielded_shrink)


def _replace_in_wrapper(shielded_shrink: Any) -> None:
    from vllm.lora.punica_wrapper import punica_cpu

    punica_cpu.bgmv_shrink = shielded_shrink
