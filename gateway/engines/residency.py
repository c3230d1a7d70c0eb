"""Adapter residency: the engine's report of its adapters, the working set, and the thrash monitor.

Throughput collapses when the working set exceeds the slots, because weights are swapped all the time; vLLM's own
metrics do not show it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.metrics import AdapterMetrics

_WINDOW_S = 300.0


class ResidencyTier(StrEnum):
    """Where an adapter's weights are: in a SLOT on the device, in the CPU cache, or on DISK only."""

    SLOT = "slot"
    CPU = "cpu"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Resident:
    """One adapter with a name in an engine; `load_ms` is how long its load took, None if unknown."""

    name: str
    path: str
    tier: ResidencyTier
    pinned: bool
    load_ms: float | None


@dataclass(frozen=True, slots=True)
class ResidencyReport:
    """The adapters of one engine, least recently used first, and its capacity for them.

    `unnamed` counts weights without a name, `loads` the loads from disk; `slot_bytes` is the memory of one slot.
    """

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int
    slot_bytes: int
    loads: int
    unnamed: int
    patches: tuple[str, ...]
    adapters: tuple[Resident, ...]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "ResidencyReport":
        """Parse the plugin's answer."""
        adapters = tuple(
            Resident(entry["name"], entry["path"], ResidencyTier(entry["tier"]), entry["pinned"], entry["load_ms"])
            for entry in document["adapters"]
        )
        numbers = ("max_loras", "max_cpu_loras", "max_lora_rank", "slot_bytes", "loads", "unnamed")
        return cls(
            **{name: int(document[name]) for name in numbers}, patches=tuple(document["patches"]), adapters=adapters
        )

    def by_tier(self) -> dict[str, list[str]]:
        """Return the names by tier, least recently used first."""
        return {
            tier.value: [adapter.name for adapter in self.adapters if adapter.tier is tier] for tier in ResidencyTier
        }


class WorkingSet:
    """The adapters used within the last five minutes, by engine name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used_s: dict[str, float] = {}

    def touch(self, name: str) -> None:
        """Note that a request uses an adapter."""
        self._used_s.pop(name, None)
        self._used_s[name] = self._clock()

    def names(self) -> list[str]:
        """Return the working set, least recently used first."""
        oldest_s = self._clock() - _WINDOW_S
        for name, used_s in list(self._used_s.items()):
            if used_s >= oldest_s:
                break
            del self._used_s[name]
        return list(self._used_s)

    def warning(self, slots: int) -> str:
        """Return a warning when the working set exceeds the slots, else ""."""
        size = len(self.names())
        if size <= slots:
            return ""
        return (
            f"{size} adapters were used within {_WINDOW_S / 60:.0f} minutes and the engine has {slots} slots, so it "
            f"keeps swapping weights; restart with --max-loras {size + 1} if memory allows, or add an engine."
        )


class ThrashMonitor:
    """Reports in metrics and admin API while the working set exceeds the slots, and announces each change."""

    def __init__(self, engine: str, used: WorkingSet, metrics: AdapterMetrics, announce: Callable[[str], None]) -> None:
        self._engine = engine
        self._used = used
        self._metrics = metrics
        self._announce = announce
        self.warning = ""

    def check(self, slots: int) -> None:
        """Compare the working set with the engine's slots and set the gauges."""
        warning = self._used.warning(slots)
        if bool(warning) != bool(self.warning):
            self._announce(warning or "the adapters in use fit into the slots again")
        self.warning = warning
        self._metrics.slots.labels(self._engine).set(slots)
        self._metrics.working_set.labels(self._engine).set(len(self._used.names()))
        self._metrics.thrash.labels(self._engine).set(bool(warning))
