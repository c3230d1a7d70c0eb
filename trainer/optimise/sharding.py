"""The base split over the processes of a run (FSDP): each holds its part of every layer.

A layer is whole only while it is computed.

What surrounds the layers (embedding, last norm, output layer) is whole in every process, as are adapters, which are put
on before. The result is that of processes that each hold everything.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def split_layers(
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


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, to be read and written: its part, or all where nothing is split."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.detach()


def whole(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The whole of which this is the process's part, split as `like` is; all processes call it."""
    if not isinstance(like, DTensor):
        return part
    split = DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return split.full_tensor()


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole, split as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    split = distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return split.to_local()


def is_split(tensor: torch.Tensor) -> bool:
    """Whether each process holds a part only."""
    return isinstance(tensor, DTensor)
