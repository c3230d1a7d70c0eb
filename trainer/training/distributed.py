"""Several processes training one adapter: started by `accelerate launch` or `torchrun`, each with its share of a step.

Every process knows the whole plan. Before each update the gradients are summed over all of them, so the result is that
of one process with a step of the same rows. Each holds the whole model, or its part of every layer (`accelerate launch
--use_fsdp`).

The base split over the processes of a run (FSDP): each holds its part of every layer.

A layer is whole only while it is computed.

What surrounds the layers (embedding, last norm, output layer) is whole in every process, as are adapters, which are put
on before. The result is that of processes that each hold everything.
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_SPLIT = "ACCELERATE_USE_FSDP"
_REFUSED = (
    ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed, which the trainer does not use", "--use_fsdp instead of --use_deepspeed"),
    ("FSDP_OFFLOAD_PARAMS", "the base on the CPU between layers, which the trainer does not do", "no offloading"),
)


@dataclass(frozen=True, slots=True)
class DistributedState:
    """This process's place among those of the run; `splits_base` when each holds a part of every layer only."""

    rank: int = 0
    local_rank: int = 0
    count: int = 1
    splits_base: bool = False

    @property
    def is_first(self) -> bool:
        """The process that writes files and talks."""
        return self.rank == 0

    @property
    def parts(self) -> int:
        """Into how many parts the layers of the base are split."""
        return self.count if self.splits_base else 1

    def sum_gradients(self, gradients: Sequence[torch.Tensor]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.count > 1:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def sum(self, value: float) -> float:
        """The sum of a number over the processes; a way to tell all that one was asked to stop, too."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def most(self, value: float) -> float:
        """The greatest of a number over the processes."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def least(self, value: float) -> float:
        """The smallest of a number over the processes."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def agree(self, text: str) -> str:
        """What the first process says."""
        said = [text]
        if self.count > 1:
            distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait_for_all(self) -> None:
        """Return once every process is here."""
        if self.count > 1:
            distributed.barrier()

    def _reduced(self, value: float, how: Any) -> float:
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        if torch.cuda.is_available():
            total = total.to("cuda")
        distributed.all_reduce(total, how)
        return float(total)


def _is_asked(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").lower() in ("true", "1", "yes")


def _refuse_what_nobody_obeys(environment: Mapping[str, str]) -> None:
    """What a launcher was told and no code of ours does would end in every process running out of memory."""
    for variable, wish, instead in _REFUSED:
        if _is_asked(environment, variable):
            raise RunError(f"the launcher asks for {wish}; launch with {instead}.")


@contextmanager
def distributed_state() -> Iterator[DistributedState]:
    """The place that the launcher gave to this process; alone where there is no launcher."""
    _refuse_what_nobody_obeys(os.environ)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield DistributedState()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    # transformers would load the base in the first process alone and leave the others with whatever memory holds.
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield DistributedState(distributed.get_rank(), local_rank, count, _is_asked(os.environ, _SPLIT))
    finally:
        distributed.destroy_process_group()


def shard_layers(
    base: "PreTrainedModel", device: torch.device, processes: int, kept_whole: set[torch.nn.Parameter]
) -> None:
    """Move the base to the device layer by layer, keeping this process's part of each; all processes call it."""
    mesh = init_device_mesh(device.type, (processes,))
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
    }
    decoder = base.get_decoder()
    layers = next(part for part in decoder.children() if isinstance(part, torch.nn.ModuleList))
    for layer in layers:
        layer.to(device)  # by itself, so that the scales of NF4 weights go along
        part = fully_shard(layer, ignored_params=kept_whole, **options)
        # Gradients are sums over rows, whichever process has them; the step divides by what was learnt.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    inside = set(layers.parameters())
    around = {parameter for parameter in decoder.parameters() if parameter not in inside}
    fully_shard(decoder, ignored_params=around | kept_whole, **options)
    base.to(device)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, to be read and written: its part, or all where nothing is split."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.detach()


def full_tensor(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The whole of which this is the process's part, split as `like` is; all processes call it."""
    if not isinstance(like, DTensor):
        return part
    split = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return split.full_tensor()


def shard_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole, split as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    split = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return split.to_local()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether each process holds a part only."""
    return isinstance(tensor, DTensor)
