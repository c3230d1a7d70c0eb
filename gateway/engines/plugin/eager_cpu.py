"""vLLM's own CPU kernels for norms and rotary embeddings in engines with LoRA, which vLLM runs uncompiled.

vLLM chooses between its kernels and torch code that a compiler will fuse before its CPU platform switches compilation
off for LoRA. What is left is the torch code without the compiler. Compiling takes minutes at the first start instead.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PROVIDER = "turntable_cpu"


def eager_kernels(check_and_update: Callable[[Any], None]) -> Callable[[Any], None]:
    """`CpuPlatform.check_and_update_config` that also chooses vLLM's kernels where it runs uncompiled.

    Raises when vLLM has no such kernels, or when they do not compute what its torch code computes.
    """
    _register_norms()

    def chosen(vllm_config: Any) -> None:
        check_and_update(vllm_config)
        compilation = vllm_config.compilation_config
        if vllm_config.lora_config is None or int(compilation.mode) != 0:
            return
        compilation.custom_ops = ["all" if name == "none" else name for name in compilation.custom_ops]
        priority = vllm_config.kernel_config.ir_op_priority
        for op in (priority.rms_norm, priority.fused_add_rms_norm):
            if _PROVIDER not in op:
                op.insert(0, _PROVIDER)

    return chosen


def _register_norms() -> None:
    import vllm.kernels  # noqa: F401  # registers vLLM's own, before ours
    from vllm import ir

    kernels = torch.ops._C

    def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
        normed = torch.empty_like(x)
        kernels.rms_norm(normed, x, weight, epsilon)
        return normed

    def fused_add_rms_norm(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    _check(rms_norm, ir.ops.rms_norm.impls["native"], 1)
    _check(fused_add_rms_norm, ir.ops.fused_add_rms_norm.impls["native"], 2)
    ir.ops.rms_norm.register_impl(_PROVIDER, supports_args=_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(_PROVIDER, supports_args=_fits_sum, inplace=True)(fused_add_rms_norm)


def _fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    width_fits = x.shape[-1] % 32 == 0  # the kernels work on whole vectors
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous() and width_fits


def _fits_sum(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(x, weight, epsilon, variance_size) and x_residual.is_contiguous() and x_residual.dtype == x.dtype


def _check(ours: Callable[..., Any], theirs: Any, inputs: int) -> None:
    random = torch.Generator().manual_seed(0)
    rows = [torch.randn(3, 64, generator=random) for _ in range(inputs)]
    weight = torch.randn(64, generator=random)
    expected = theirs.impl_fn(*(row.clone() for row in rows), weight, 1e-5)
    torch.testing.assert_close(ours(*(row.clone() for row in rows), weight, 1e-5), expected)
