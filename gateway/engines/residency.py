"""What an engine says about the adapters in it, as our plugin tells it.

The working set: how many different adapters an engine was asked for lately, against the slots it has for them.

Throughput collapses when more adapters take turns than there are slots, because each turn moves weights; nothing else
in the engine's metrics says so.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.metrics import AdapterMetrics


class ResidencyTier(StrEnum):
    """Where weights lie: in a SLOT, ready to compute with; in the CPU cache; on DISK only, known by name."""

    SLOT = "slot"
    CPU = "cpu"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Resident:
    """One adapter that an engine knows by name; `load_ms` is how long the engine took to read it."""

    name: str
    path: str
    tier: ResidencyTier
    pinned: bool
    load_ms: float | None


@dataclass(frozen=True, slots=True)
class ResidencyReport:
    """The adapters of one engine, coldest first, with the room it has for them.

    `unnamed` counts weights that no name leads to; `loads` counts the engine's reads from disk; `slot_bytes` is what
    one slot takes.
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
        """Read the plugin's answer."""
        adapters = tuple(
            Resident(entry["name"], entry["path"], ResidencyTier(entry["tier"]), entry["pinned"], entry["load_ms"])
            for entry in document["adapters"]
        )
        numbers = ("max_loras", "max_cpu_loras", "max_lora_rank", "slot_bytes", "loads", "unnamed")
        return cls(
            **{name: int(document[name]) for name in numbers}, patches=tuple(document["patches"]), adapters=adapters
        )

    def by_tier(self) -> dict[str, list[str]]:
        """Names by tier, coldest first, for the admin surface."""
        return {
            tier.value: [adapter.name for adapter in self.adapters if adapter.tier is tier] for tier in ResidencyTier
        }


_WINDOW_S = 300.0


class WorkingSet:
    """The adapters used within the last five minutes, by engine name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used_s: dict[str, float] = {}

    def touch(self, name: str) -> None:
        """A request uses an adapter now."""
        self._used_s.pop(name, None)
        self._used_s[name] = self._clock()

    def names(self) -> list[str]:
        """The working set, longest unused first."""
        oldest_s = self._clock() - _WINDOW_S
        for name, used_s in list(self._used_s.items()):
            if used_s >= oldest_s:
                break
            del self._used_s[name]
        return list(self._used_s)

    def warning(self, slots: int) -> str:
        """One sentence when the working set does not fit into the slots, else nothing."""
        size = len(self.names())
        if size <= slots:
            return ""
        return (
            f"{size} adapters were used within {_WINDOW_S / 60:.0f} minutes and the engine has {slots} slots, so it "
            f"keeps swapping weights; restart with --max-loras {size + 1} if memory allows, or add an engine."
        )


class ThrashMonitor:
    """Tells metrics, operator and admin surface when the working set outgrows the slots; speaks once per change."""

    def __init__(self, engine: str, used: WorkingSet, metrics: AdapterMetrics, announce: Callable[[str], None]) -> None:
        self._engine = engine
        self._used = used
        self._metrics = metrics
        self._announce = announce
        self.warning = ""

    def check(self, slots: int) -> None:
        """Compare now; `slots` is what the engine has."""
        warning = self._used.warning(slots)
        if bool(warning) != bool(self.warning):
            self._announce(warning or "the adapters in use fit into the slots again")
        self.warning = warning
        self._metrics.slots.labels(self._engine).set(slots)
        self._metrics.working_set.labels(self._engine).set(len(self._used.names()))
        self._metrics.thrash.labels(self._engine).set(bool(warning))
