"""Several processes training one adapter: started by `accelerate launch` or `torchrun`, each with its share of a step.

Every process knows the whole plan. Before each update the gradients are summed over all of them, so the result is that
of one process with a step of the same rows. Each holds the whole model, or its part of every layer (`accelerate launch
--use_fsdp`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trainer.errors import RunError

_SPLIT = "ACCELERATE_USE_FSDP"
_REFUSED = (
    ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed, which the trainer does not use", "--use_fsdp instead of --use_deepspeed"),
    ("FSDP_OFFLOAD_PARAMS", "the base on the CPU between layers, which the trainer does not do", "no offloading"),
)


@dataclass(frozen=True, slots=True)
class Processes:
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
def processes_of_this_run() -> Iterator[Processes]:
    """The place that the launcher gave to this process; alone where there is no launcher."""
    _refuse_what_nobody_obeys(os.environ)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    # transformers would load the base in the first process alone and leave the others with whatever memory holds.
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), local_rank, count, _is_asked(os.environ, _SPLIT))
    finally:
        distributed.destroy_process_group()
