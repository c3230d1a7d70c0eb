"""Adapter reconciler: bring the adapters of one engine into the registry's desired state, and keep them there.

Desired: pinned versions are resident and pinned to their slots; retired and quarantined versions are unloaded; all
others are loaded on demand. It runs after each change of the registry and every few seconds, because other gateways on
the database and operators may change the engine as well.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from adapters import AdapterError, Registry, RegistrySnapshot, State, Version
from gateway.engines.adapter_loader import AdapterLoader, UnloadOutcome
from gateway.engines.residency import ResidencyReport
from gateway.errors import AdapterRefusedError, GatewayError
from gateway.threads import CRITICAL

log = logging.getLogger(__name__)
PERIOD_S = 0.25
"""How often the registry is checked for changes."""
_MAX_INTERVAL_S = 5.0
_DRAIN_TIMEOUT_S = 60.0


class Reconciler:
    """Reconciles one engine with the registry; the file `memory` keeps the working set across restarts."""

    def __init__(
        self, *, loader: AdapterLoader, registry: Registry, memory: Path, announce: Callable[[str], None]
    ) -> None:
        self._loader = loader
        self._registry = registry
        self._memory = memory
        self._announce = announce
        self._remembered: list[str] = []
        self._draining: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: RegistrySnapshot | None = None
        self._reconciled_s = 0.0
        self.residents: ResidencyReport | None = None
        """The engine's latest report; None without our plugin."""

    async def restore(self) -> None:
        """Load the pinned and the last used adapters into a started engine, as many as it has slots."""
        self._loader.engine_started()
        await self._sync()
        wanted = self._to_restore(self._registry.snapshot)
        for version in wanted[: self._loader.slots]:
            await self._load(version)
        await self.reconcile()

    async def reconcile_if_due(self) -> None:
        """Reconcile when the registry has changed, and every `_MAX_INTERVAL_S` otherwise."""
        if self._registry.snapshot is self._seen and time.monotonic() - self._reconciled_s < _MAX_INTERVAL_S:
            return
        try:
            await self.reconcile()
        except (GatewayError, AdapterError) as error:  # the supervisor probes whether the engine is alive
            log.info("%s not reconciled: %s", self._loader.name, error)

    async def reconcile(self) -> None:
        """Load, pin and unload adapters; unloads wait for running requests in the background."""
        snapshot = self._seen = self._registry.snapshot
        self._reconciled_s = time.monotonic()
        for version in self._pinned(snapshot):
            await self._load(version)
        await self._sync()
        resident = set(self._loader.resident)
        for version in _unwanted(snapshot):
            if version.engine_name in resident and version.engine_name not in self._draining:
                self._draining.add(version.engine_name)
                task = asyncio.create_task(self._drain(version))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        await CRITICAL.run(self._write_memory)

    async def _sync(self) -> None:
        snapshot = self._registry.snapshot
        known = {version.engine_name: version for versions in snapshot.versions.values() for version in versions}
        self.residents = await self._loader.sync(known, [version.engine_name for version in self._pinned(snapshot)])

    def _pinned(self, snapshot: RegistrySnapshot) -> list[Version]:
        return snapshot.pinned_versions()[: self._loader.slots - 1]

    def _to_restore(self, snapshot: RegistrySnapshot) -> list[Version]:
        routed = {version.engine_name: version for version in snapshot.routed_versions()}
        latest = [*reversed(self._loader.used.names()), *reversed(self._read_memory())]
        names = [*(version.engine_name for version in self._pinned(snapshot)), *latest, *routed]
        return [routed[name] for name in dict.fromkeys(names) if name in routed]

    async def _load(self, version: Version) -> None:
        try:
            await self._loader.ensure(version)
        except AdapterRefusedError as error:
            self._announce(f"adapter {version.engine_name} could not be loaded: {error}")
            await self.quarantine(version, str(error))

    async def quarantine(self, version: Version, reason: str) -> None:
        """Route no more requests to a version."""
        try:
            await CRITICAL.run(self._registry.set_state, version, State.QUARANTINED, reason, actor="gateway")
        except (AdapterError, SQLAlchemyError) as error:
            log.warning("%s not quarantined: %s", version.engine_name, error)

    async def _drain(self, version: Version) -> None:
        try:
            unloaded = await self._loader.unload(version, deadline_s=_DRAIN_TIMEOUT_S)
            if unloaded.left is UnloadOutcome.BUSY:
                log.warning("%s still answers requests in %s", version.engine_name, unloaded.engine)
        except GatewayError as error:
            log.info("%s not unloaded: %s", version.engine_name, error)
        except Exception:
            log.exception("%s not unloaded; it is retried", version.engine_name)
        finally:
            self._draining.discard(version.engine_name)

    def _read_memory(self) -> list[str]:
        try:
            return [str(name) for name in json.loads(self._memory.read_bytes())]
        except (OSError, ValueError, TypeError):
            return []

    def _write_memory(self) -> None:
        latest = list(self._loader.resident)
        if latest == self._remembered:
            return
        scratch = self._memory.with_suffix(".new")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(latest), encoding="utf-8")
            scratch.replace(self._memory)
        except OSError as error:  # a full disk costs the next start some cold adapters, nothing now
            log.warning("%s cannot be written: %s", self._memory, error.strerror)
        self._remembered = latest


def _unwanted(snapshot: RegistrySnapshot) -> Iterable[Version]:
    for versions in snapshot.versions.values():
        yield from (version for version in versions if version.state in (State.RETIRED, State.QUARANTINED))
