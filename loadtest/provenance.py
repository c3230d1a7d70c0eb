"""Where a report comes from: when, with which version, on which machine, of which server and models."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from loadtest.bench.machine import machine


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a report must carry so that nobody takes it for that of another server or day."""

    started_at: str | None
    """UTC, ISO 8601; None where raw timestamps are all there is."""
    turntable_version: str
    machine: dict[str, str]
    """On which the load tester ran."""
    url: str | None
    models: tuple[str, ...]
    server_version: str | None = None
    """What the server says at `/version`; None when it does not."""

    @classmethod
    def now(cls, url: str, models: Sequence[str], server_version: str | None) -> "Provenance":
        """That of a test which starts now."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return cls(started_at, metadata.version("turntable-gateway"), machine(), url, tuple(models), server_version)

    @classmethod
    def of_records(cls, models: Sequence[str]) -> "Provenance":
        """That of a report made from raw timestamps, which do not say when or of which server."""
        return cls(None, metadata.version("turntable-gateway"), machine(), None, tuple(models))

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def in_words(provenance: dict[str, Any]) -> str:
    """One line, from the JSON of a provenance."""
    server = f" ({provenance['server_version']})" if provenance.get("server_version") else ""
    measured = (
        f"Measured {provenance['started_at'].replace('T', ' ').replace('Z', ' UTC')}"
        if provenance.get("started_at")
        else "Made"
    )
    of = f" of {provenance['url']}{server}" if provenance.get("url") else " from raw timestamps"
    where = provenance["machine"]
    return (
        f"{measured}{of}, by Turntable {provenance['turntable_version']} on {where['cores']} cores of "
        f"{where['processor']}."
    )
