"""Distributed training, started by `accelerate launch` or `torchrun`: data parallel, or FSDP2 with `--use_fsdp`.

A step has the rows that the recipe says, on any number of ranks, which share them. Every rank knows the assignment of
all rows. Gradients are summed over the ranks before each update, so the result is that of one process. The rows of an
eval loss, and the pairs of DPO's reference, are shared as well.

With FSDP, each rank holds its shard of every decoder layer, and a layer is complete only while it is computed.
Embedding, last norm, output layer and adapters are complete on every rank.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.errors import RunError
from trainer.training.output_layer import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_FSDP = "ACCELERATE_USE_FSDP"
_UNSUPPORTED = (
    ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed is not supported; launch with --use_fsdp instead of --use_deepspeed."),
    ("FSDP_OFFLOAD_PARAMS", "CPU offload (fsdp_offload_params) is not supported; launch without offloading."),
)


@dataclass(frozen=True, slots=True)
class DistributedState:
    """The place of this process in a run; with `fsdp`, each rank holds a shard of every layer."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    fsdp: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    @property
    def base_shards(self) -> int:
        """The number of shards of the base's layers."""
        return self.world_size if self.fsdp else 1

    def sum_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.world_size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, value: float) -> float:
        """Return the sum of a number over all ranks; also tells all ranks that one was asked to stop."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """Return the maximum of a number over all ranks."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def min(self, value: float) -> float:
        """Return the minimum of a number over all ranks."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def broadcast(self, text: str) -> str:
        """Return the text of rank 0 on all ranks."""
        texts = [text]
        if self.world_size > 1:
            distributed.broadcast_object_list(texts, src=0)
        return texts[0]

    def _reduced(self, value: float, how: Any) -> float:
        if self.world_size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        if torch.cuda.is_available():
            total = total.to("cuda")
        distributed.all_reduce(total, how)
        return float(total)


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_set(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").lower() in ("true", "1", "yes")


def _refuse_unsupported(environment: Mapping[str, str]) -> None:
    """Raise `RunError` for an unsupported launcher option: ignored, it would run every rank out of memory."""
    for variable, message in _UNSUPPORTED:
        if _is_set(environment, variable):
            raise RunError(message)


def refuse_several_processes(what: str) -> None:
    """Raise `RunError` under a launcher of several processes, for work that one process does."""
    if (world_size := _world_size()) > 1:
        raise RunError(f"{what} runs in one process, and {world_size} were launched; start it without a launcher.")


def refuse_idle_ranks(rows_per_step: int, state: DistributedState) -> None:
    """Raise `RunError` when a step has fewer rows than there are ranks to share them."""
    if state.world_size > rows_per_step:
        raise RunError(
            f"{state.world_size} processes share the {rows_per_step} rows of a step, so some have none; set "
            f"training.gradient_accumulation_steps = {state.world_size}, or launch fewer processes."
        )


@contextmanager
def distributed_state() -> Iterator[DistributedState]:
    """Join the process group of the launcher; world size 1 without a launcher."""
    _refuse_unsupported(os.environ)
    world_size = _world_size()
    if world_size == 1:
        yield DistributedState()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    # With it, transformers loads the base on rank 0 alone and leaves the weights of other ranks uninitialized.
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield DistributedState(distributed.get_rank(), local_rank, world_size, _is_set(os.environ, _FSDP))
    finally:
        distributed.destroy_process_group()


def shard_layers(
    base: "PreTrainedModel", device: torch.device, shards: int, unsharded: set[torch.nn.Parameter]
) -> None:
    """Move the base to the device layer by layer, keeping this rank's shard of each; all ranks call it."""
    mesh = init_device_mesh(device.type, (shards,))
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
    }
    decoder = decoder_of(base)
    layers = next(part for part in decoder.children() if isinstance(part, torch.nn.ModuleList))
    for layer in layers:
        layer.to(device)  # by itself, so that the scales of NF4 weights go along
        sharded = fully_shard(layer, ignored_params=unsharded, **options)
        # Gradients are sums over rows; the optimizer step divides them by the loss tokens of all ranks.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    inside = set(layers.parameters())
    around = {parameter for parameter in decoder.parameters() if parameter not in inside}
    fully_shard(decoder, ignored_params=around | unsharded, **options)
    base.to(device)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a tensor, to be read and written; all of it when it is not sharded."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.detach()


def full_tensor(shard: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Gather the full tensor of this rank's shard, which is sharded as `like` is; all ranks call it."""
    if not isinstance(like, DTensor):
        return shard
    gathered = DTensor.from_local(
        shard, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return gathered.full_tensor()


def shard_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a full tensor, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    sharded = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return sharded.to_local()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether each rank holds only a shard."""
    return isinstance(tensor, DTensor)
