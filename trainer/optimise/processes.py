"""Several processes training one adapter: started by `accelerate launch` or `torchrun`, each with its share of a step.

Every process holds the whole model and knows the whole plan. Before each update the gradients are summed over all of
them, so the result is that of one process with a step of the same rows.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from trainer.errors import RunError

_SHARDING = (
    ("ACCELERATE_USE_FSDP", "FSDP", "--use_fsdp"),
    ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed", "--use_deepspeed"),
)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those of the run."""

    rank: int = 0
    local_rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The process that writes files and talks."""
        return self.rank == 0

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
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        if torch.cuda.is_available():
            total = total.to("cuda")
        distributed.all_reduce(total)
        return float(total)

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


def _refuse_sharding(environment: Mapping[str, str]) -> None:
    """A launcher that was told to shard the model would be obeyed by nobody, and every process run out of memory."""
    for variable, kind, option in _SHARDING:
        if environment.get(variable, "").lower() in ("true", "1", "yes"):
            raise RunError(
                f"the launcher asks for {kind}, which splits the base over processes; every process here holds all of "
                f'it: launch without {option}, and where it does not fit set method = "qlora".'
            )


@contextmanager
def processes_of_this_run() -> Iterator[Processes]:
    """The place that the launcher gave to this process; alone where there is no launcher."""
    _refuse_sharding(os.environ)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), local_rank, count)
    finally:
        distributed.destroy_process_group()
