"""Adapter loader: load adapters into one engine, pin them while requests use them, unload them.

Loads run one at a time, because a load stalls every running stream; requests that wait for the same adapter share one
load. Each version has its own name in the engine, so a promotion never touches running requests or a stale prefix
cache. The least recently used adapter is unloaded before one beyond the engine's capacity is loaded, so vLLM never
evicts by itself and the list here is the engine's.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from adapters import AdapterError, Store, StoreError, Version
from gateway.engines.client import EngineClient
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.residency import ResidencyReport, ResidencyTier, WorkingSet
from gateway.errors import AdapterRefusedError, EngineUnavailableError, GatewayError
from gateway.metrics import AdapterMetrics
from gateway.threads import FILES, REPORTS

_ROOM_TIMEOUT_S = 30.0
"""How long a load waits for an adapter that may be evicted."""
_CRASH_AFTER_LOAD_S = 10.0
"""How long after a load the death of the engine is attributed to it."""


class UnloadOutcome(StrEnum):
    """How an unload ended: REMOVED and verified, only FORGOTTEN by name (no plugin), LINGERING in memory until the
    engine has dropped a request that was just cancelled, still BUSY at the deadline, or ABSENT: it was not resident.
    """

    REMOVED = "removed"
    FORGOTTEN = "forgotten"
    LINGERING = "lingering"
    BUSY = "busy"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Unloaded:
    """Result of unloading a version from one engine; `left` is its outcome, `waited_s` the wait for its requests."""

    engine: str
    left: UnloadOutcome
    waited_s: float


class AdapterLoader:
    """Loads and unloads the adapters of one engine, and counts the requests that pin each.

    `slots` adapters fit into the engine's batch, `capacity` into its memory; both are corrected by `sync`. `on_load`
    records the name and duration of each load.
    """

    def __init__(
        self,
        *,
        name: str,
        client: EngineClient,
        store: Store,
        file_locks: AdapterFileLocks,
        metrics: AdapterMetrics,
        slots: int,
        capacity: int,
        on_load: Callable[[str, float], None] | None = None,
    ) -> None:
        self.name = name
        self.slots = slots
        self.capacity = capacity
        self.has_plugin = True
        self.pins: dict[str, int] = {}
        """Running requests by engine name."""
        self.warm: dict[str, None] = {}
        """The adapters used last, as many as the engine has slots: requests for them need no swap."""
        self.used = WorkingSet()
        self._on_load = on_load
        self._client = client
        self._store = store
        self._file_locks = file_locks
        self._metrics = metrics
        self._resident: dict[str, Version] = {}
        self._loaded_s: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._load_waiters: Counter[str] = Counter()
        self._unloading: dict[str, asyncio.Event] = {}
        self._pinned_in_slots: frozenset[str] = frozenset()
        self._lingering: dict[str, Version] = {}
        self._unpinned = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._load_in_progress: Version | None = None
        self._last_load: tuple[Version, float] | None = None

    @property
    def resident(self) -> tuple[str, ...]:
        """Engine names of the resident adapters, least recently used first."""
        return tuple(self._resident)

    async def pin(self, version: Version) -> None:
        """Load a version if it is cold and count one more request on it; `unpin` must follow."""
        name = version.engine_name
        self._touch(name)
        while name not in self._resident:
            await self.ensure(version)
        self.pins[name] = self.pins.get(name, 0) + 1

    def unpin(self, version: Version, *, answered: bool) -> None:
        """Count one request less on a version.

        An answered request shows that the engine survived its latest load, so a later death is not attributed to it,
        unless the version loaded last is another one whose first requests are still running.
        """
        name = version.engine_name
        last = self._last_load
        if answered and last is not None and last[0].engine_name not in self.pins.keys() - {name}:
            self._last_load = None
        remaining = self.pins[name] - 1
        if remaining:
            self.pins[name] = remaining
        else:
            del self.pins[name]
            self._unpinned.set()

    def forget(self, version: Version, before_s: float) -> None:
        """Forget `version` after the engine answered 404, unless it was loaded since `before_s` (`perf_counter`)."""
        name = version.engine_name
        if name in self._resident and self._loaded_s.get(name, 0.0) < before_s:
            self._file_locks.release(self.name, self._resident.pop(name))
            self.warm.pop(name, None)

    def is_warm(self, version: Version | None) -> bool:
        """Whether a request for a version needs no load and no swap; the base (None) never does."""
        return version is None or version.engine_name in self.warm

    def _touch(self, name: str) -> None:
        self.used.touch(name)
        self.warm.pop(name, None)
        self.warm[name] = None
        if len(self.warm) > self.slots:
            del self.warm[next(iter(self.warm))]
        if version := self._resident.pop(name, None):
            self._resident[name] = version

    async def ensure(self, version: Version) -> None:
        """Load a version unless it is resident; concurrent callers share one load and its outcome."""
        name = version.engine_name
        if name in self._resident:
            return
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(version))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        self._load_waiters[name] += 1  # not evicted before its waiting requests have pinned it
        try:
            await asyncio.shield(task)
        finally:
            self._load_waiters[name] -= 1
            if not self._load_waiters[name]:
                del self._load_waiters[name]

    async def unload(self, version: Version, *, deadline_s: float) -> Unloaded:
        """Let running requests finish for at most `deadline_s`, then remove the version and verify that it is gone.

        A request that arrives meanwhile waits and loads the version again, so stop routing requests to it first.
        """
        name, started = version.engine_name, time.monotonic()
        if name not in self._resident:
            return Unloaded(self.name, UnloadOutcome.ABSENT, 0.0)
        self._unloading[name] = asyncio.Event()
        del self._resident[name]
        try:
            is_idle = await self._wait_for_unpin(lambda: name not in self.pins, deadline_s)
            waited_s = time.monotonic() - started
            if not is_idle:
                self._resident[name] = version
                return Unloaded(self.name, UnloadOutcome.BUSY, waited_s)
            async with self._one_at_a_time:
                return Unloaded(self.name, await self._remove(version), waited_s)
        finally:
            self._unloading.pop(name).set()

    def engine_started(self) -> None:
        """Forget all residents: a new engine process has none."""
        self._resident.clear()
        self._loaded_s.clear()
        self.warm.clear()
        self._lingering.clear()
        self._file_locks.release_all(self.name)

    def load_before_crash(self, died_s: float) -> Version | None:
        """Return the version whose load the death of the engine is attributed to, and forget it.

        That is the version being loaded, or the one loaded in the last seconds before `died_s` (`time.monotonic`) of
        which no request has been answered.
        """
        last, self._last_load = self._last_load, None
        return self._load_in_progress or (last[0] if last and died_s - last[1] < _CRASH_AFTER_LOAD_S else None)

    async def sync(self, known: Mapping[str, Version], pinned: Collection[str]) -> ResidencyReport | None:
        """Read the adapters that the engine really has, and pin exactly `pinned` to their slots.

        `known` maps engine names to versions; those found in the engine are adopted, so a gateway that attaches to a
        running engine loads nothing twice. Returns the engine's report; None without our plugin.
        """
        async with self._one_at_a_time:
            self._pinned_in_slots = frozenset(pinned)
            report = await self._client.residents()
            self.has_plugin = report is not None
            if report is None:
                return None
            self.slots, self.capacity = report.max_loras, report.max_cpu_loras
            self._adopt(report, known)
            await self._remove_unusable(report, known)
            pinned_now = {adapter.name for adapter in report.adapters if adapter.pinned}
            for name in pinned_now ^ (self._pinned_in_slots & self._resident.keys()):
                await self._client.pin_adapter(name, pinned=name not in pinned_now)
            return report

    def _adopt(self, report: ResidencyReport, known: Mapping[str, Version]) -> None:
        """Make the list of residents equal to the report, as far as its adapters are `known` versions."""
        in_memory = [adapter for adapter in report.adapters if adapter.tier is not ResidencyTier.DISK]
        for name in self._resident.keys() - {adapter.name for adapter in in_memory}:
            self._file_locks.release(self.name, self._resident.pop(name))
        adopted = {}
        for adapter in in_memory:
            version = known.get(adapter.name)
            if version is None or adapter.name in self._resident or adapter.name in self._unloading:
                continue
            if adapter.path == str(self._store.path(version.digest).resolve()):
                with contextlib.suppress(StoreError):  # its files are being deleted: do not adopt it
                    self._file_locks.acquire(self.name, version)
                    adopted[adapter.name] = version
        self._resident = adopted | self._resident

    async def _remove_unusable(self, report: ResidencyReport, known: Mapping[str, Version]) -> None:
        """Remove names whose weights the engine has dropped, and weights without a name."""
        in_use = self.pins.keys() | self._load_waiters.keys() | self._resident.keys() | self._unloading.keys()
        for adapter in report.adapters:
            if adapter.tier is ResidencyTier.DISK and adapter.name in known and adapter.name not in in_use:
                await self._client.remove_adapter(adapter.name)
        if report.unnamed:
            await self._client.remove_adapter("")
        elif self._lingering:
            for version in self._lingering.values():
                self._file_locks.release(self.name, version)
            self._lingering.clear()

    async def _load(self, version: Version) -> None:
        name = version.engine_name
        if unloading := self._unloading.get(name):
            await unloading.wait()
        async with self._one_at_a_time:
            if name in self._resident:
                return
            await self._make_room()
            self._load_in_progress = version
            try:
                self._file_locks.acquire(self.name, version)
                path = await FILES.run(self._store.verify, version.digest)
                started = time.perf_counter()
                if not await self._client.load_adapter(name, str(path.resolve())) and self.has_plugin:
                    await self._client.remove_adapter(name)  # from before this gateway: its files are unknown
                    await self._client.load_adapter(name, str(path.resolve()))
            except (AdapterError, AdapterRefusedError) as error:
                self._file_locks.release(self.name, version)
                self._metrics.loads.labels("refused").inc()
                raise AdapterRefusedError(str(error)) from error
            except GatewayError:  # the engine may have it or not: its files stay locked until `sync` or a restart
                self._metrics.loads.labels("failed").inc()
                raise
            finally:
                self._load_in_progress, self._last_load = None, (version, time.monotonic())
            self._loaded_s[name] = time.perf_counter()
            load_s = self._loaded_s[name] - started
            self._metrics.load_s.observe(load_s)
            self._metrics.loads.labels("loaded").inc()
            self._lingering.pop(name, None)
            self._resident[name] = version
            if self._on_load is not None:
                REPORTS.start(self._on_load, version.name, load_s)

    async def _make_room(self) -> None:
        while len(self._resident) >= self.capacity:
            if not await self._wait_for_unpin(lambda: self._least_recently_used() is not None, _ROOM_TIMEOUT_S):
                raise EngineUnavailableError(
                    f"All {self.capacity} adapters that the engine can hold are in use; raise --max-cpu-loras."
                )
            evicted = self._least_recently_used()
            assert evicted is not None, "the wait ended with one, and no other task ran since"
            await self._remove(self._resident.pop(evicted))

    def _least_recently_used(self) -> str | None:
        """Return the least recently used adapter that may be evicted; None while all are in use."""
        in_use = self.pins.keys() | self._load_waiters.keys() | self._pinned_in_slots
        return next((name for name in self._resident if name not in in_use), None)

    async def _wait_for_unpin(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a condition that changes when an adapter is unpinned; False when it is not met in time."""
        try:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    self._unpinned.clear()
                    await self._unpinned.wait()
        except TimeoutError:
            return condition()
        return True

    async def _remove(self, version: Version) -> UnloadOutcome:
        """Remove an unpinned version that is no longer in `_resident` from the engine."""
        name = version.engine_name
        self.warm.pop(name, None)
        self._loaded_s.pop(name, None)
        if not self.has_plugin:
            await self._client.forget_adapter(name)
            self._file_locks.release(self.name, version)
            return UnloadOutcome.FORGOTTEN
        if await self._client.remove_adapter(name):
            self._file_locks.release(self.name, version)
            return UnloadOutcome.REMOVED
        self._lingering[name] = version
        return UnloadOutcome.LINGERING
