"""Slot planner: choose the number of adapter slots and their rank where the operator did not set them.

vLLM allocates the memory of all slots at start, each for the highest rank, whether used or not; with fewer slots than
adapters in use its throughput collapses. One slot takes rank x (in_features + out_features) numbers, summed over all
modules that an adapter may target.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters import BaseModel
from adapters.peft_config import ENGINE_RANKS

_DEFAULT_RANK = 16
_MIN_WANTED_SLOTS = 32
_MAX_SLOTS = 256
_SLOTS_SHARE = 0.1
"""Share of the device's memory that slots may take."""
_CACHE_SHARE = 0.2
"""Share of the free host memory that cached adapters may take."""
_MAX_CACHED = 1024
_NUMBER_BYTES = 2  # bfloat16 or float16
_ASSUMED_SLOTS = 8


@dataclass(frozen=True)
class SlotSettings:
    """The operator's settings; None where the planner decides."""

    max_loras: int | None
    max_cpu_loras: int | None
    max_lora_rank: int | None


@dataclass(frozen=True)
class SlotPlan:
    """Adapter slots, adapters in the CPU cache, and the highest rank; `reason` explains the plan in one line."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    slot_bytes: int
    reason: str


def plan_slots(
    given: SlotSettings, base: BaseModel, *, ranks: Sequence[int], working_set: int, device_bytes: int, host_bytes: int
) -> SlotPlan:
    """Plan for adapters of these ranks, of which `working_set` get traffic, within the free memory in bytes."""
    highest = max(ranks, default=0)
    rank = given.max_lora_rank or next(
        fit for fit in ENGINE_RANKS if fit >= min(max(highest, _DEFAULT_RANK), ENGINE_RANKS[-1])
    )
    slot_bytes = bytes_per_slot(base, rank)
    fitting = max(1, int(_SLOTS_SHARE * device_bytes) // slot_bytes)
    wanted = max(_MIN_WANTED_SLOTS, working_set + 1)
    slots = given.max_loras or min(wanted, fitting, _MAX_SLOTS)
    cached = given.max_cpu_loras or max(slots, min(_MAX_CACHED, int(_CACHE_SHARE * host_bytes) // slot_bytes))
    why = "as set" if given.max_loras else _why(slots, wanted, working_set)
    reason = (
        f"{slots} adapter slots of rank {rank} ({why}), {cached} adapters cached; "
        f"a slot takes {_mib(slot_bytes)}, all {_mib(slots * slot_bytes)} of {_mib(device_bytes)} free"
    )
    return SlotPlan(slots, max(cached, slots), rank, slot_bytes, reason)


def assumed_plan(given: SlotSettings, reason: str) -> SlotPlan:
    """Return a default plan where nothing can be computed; an attached engine's report replaces it later."""
    slots = given.max_loras or _ASSUMED_SLOTS
    cached = given.max_cpu_loras or 2 * slots
    rank = given.max_lora_rank or _DEFAULT_RANK
    return SlotPlan(slots, cached, rank, 0, f"{slots} adapter slots of rank {rank}, {cached} cached ({reason})")


def bytes_per_slot(base: BaseModel, rank: int) -> int:
    """Return the memory of one slot; an LM head tied to the embedding has slot memory of its own."""
    shapes = list(base.modules.values())
    if not any(name.endswith("lm_head") for name in base.modules):
        shapes += [shape for name, shape in base.modules.items() if name.endswith("embed_tokens")]
    return rank * _NUMBER_BYTES * sum(out + into for out, into in shapes)


def free_host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the available memory of this machine."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def device_bytes() -> int | None:
    """Return the total memory of the first GPU; None when `nvidia-smi` does not report it."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return int(output.stdout.split()[0]) << 20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _why(slots: int, wanted: int, working_set: int) -> str:
    if slots < wanted:
        return f"{wanted} would be better, memory allows no more"
    if working_set == 1:
        return "1 adapter gets traffic"
    return f"{working_set} adapters get traffic" if working_set else "no adapter yet, room to grow"


def _mib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
