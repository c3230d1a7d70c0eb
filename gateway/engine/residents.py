"""What an engine says about the adapters in it, as our plugin tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Tier(StrEnum):
    """Where weights lie: in a SLOT, ready to compute with; in the CPU cache; on DISK only, known by name."""

    SLOT = "slot"
    CPU = "cpu"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Resident:
    """One adapter that an engine knows by name; `load_ms` is how long the engine took to read it."""

    name: str
    path: str
    tier: Tier
    pinned: bool
    load_ms: float | None


@dataclass(frozen=True, slots=True)
class Residents:
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
    shields: tuple[str, ...]
    adapters: tuple[Resident, ...]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Residents":
        """Read the plugin's answer."""
        adapters = tuple(
            Resident(entry["name"], entry["path"], Tier(entry["tier"]), entry["pinned"], entry["load_ms"])
            for entry in document["adapters"]
        )
        numbers = ("max_loras", "max_cpu_loras", "max_lora_rank", "slot_bytes", "loads", "unnamed")
        return cls(
            **{name: int(document[name]) for name in numbers}, shields=tuple(document["shields"]), adapters=adapters
        )

    def by_tier(self) -> dict[str, list[str]]:
        """Names by tier, coldest first, for the admin surface."""
        return {tier.value: [adapter.name for adapter in self.adapters if adapter.tier is tier] for tier in Tier}
