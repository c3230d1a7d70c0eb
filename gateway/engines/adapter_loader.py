"""The loader: makes an adapter resident in the engine and keeps it there while requests use it.

One load at a time, because a load stalls every running stream; the same adapter asked for twice is loaded once. Each
version has an engine name of its own, so a swap never touches running requests and never meets a stale prefix cache.
The engine never has to evict by itself: the coldest adapter is taken out before one too many comes in, so what stands
here is what the engine has.

What became of a version that was to leave an engine.
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


class Left(StrEnum):
    """How an unload ended: REMOVED and seen to be gone, only FORGOTTEN (no plugin), LINGERING until the engine has
    finished with a request cut off a moment ago, still BUSY at the deadline, or ABSENT from the start.
    """

    REMOVED = "removed"
    FORGOTTEN = "forgotten"
    LINGERING = "lingering"
    BUSY = "busy"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What became of a version in one engine, and how long its requests were waited for."""

    engine: str
    left: Left
    waited_s: float


_ROOM_S = 30.0
_BLAME_S = 10.0


class AdapterLoader:
    """Which versions the engine has, coldest first, and how many requests hold each."""

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
        """Requests that run here now, by engine name."""
        self.warm: dict[str, None] = {}
        """The latest adapters used here, as many as the engine has slots: what it needs not bring in again."""
        self.used = WorkingSet()
        self._on_load = on_load
        self._client = client
        self._store = store
        self._file_locks = file_locks
        self._metrics = metrics
        self._resident: dict[str, Version] = {}
        self._loaded_s: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._awaited: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.Event] = {}
        self._kept: frozenset[str] = frozenset()
        self._lingering: dict[str, Version] = {}
        self._freed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._in_progress: Version | None = None
        self._last: tuple[Version, float] | None = None

    @property
    def resident(self) -> tuple[str, ...]:
        """Engine names that the engine serves now, coldest first."""
        return tuple(self._resident)

    async def pin(self, version: Version) -> None:
        """Load a version if need be and count one more request on it; `release` must follow."""
        name = version.engine_name
        self._touch(name)
        while name not in self._resident:
            await self.ensure(version)
        self.pins[name] = self.pins.get(name, 0) + 1

    def unpin(self, version: Version, *, answered: bool) -> None:
        """A request is through with an adapter. One that was answered clears it of any later death, and clears another
        one that was loaded last, unless that one's first requests are still running.
        """
        name = version.engine_name
        if answered and self._last is not None and self._last[0].engine_name not in self.pins.keys() - {name}:
            self._last = None
        left = self.pins[name] - 1
        if left:
            self.pins[name] = left
        else:
            del self.pins[name]
            self._freed.set()

    def forget(self, version: Version, before_s: float) -> None:
        """The engine says that it has a version no more that was loaded before this moment of `time.perf_counter`."""
        name = version.engine_name
        if name in self._resident and self._loaded_s.get(name, 0.0) < before_s:
            self._file_locks.release(self.name, self._resident.pop(name))
            self.warm.pop(name, None)

    def is_warm(self, version: Version | None) -> bool:
        """Whether requests for a version start here at once; the base (None) always does."""
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
        self._awaited[name] += 1  # what somebody waits for is not evicted before he can hold it
        try:
            await asyncio.shield(task)
        finally:
            self._awaited[name] -= 1
            if not self._awaited[name]:
                del self._awaited[name]

    async def unload(self, version: Version, *, deadline_s: float) -> Unloaded:
        """Let running requests finish, for at most `deadline_s`, take the version out and look whether it is gone.

        Requests that come meanwhile wait, and load it again; so resolve no more requests to it before.
        """
        name, started = version.engine_name, time.monotonic()
        if name not in self._resident:
            return Unloaded(self.name, Left.ABSENT, 0.0)
        self._leaving[name] = asyncio.Event()
        del self._resident[name]
        try:
            is_free = await self._wait_for(lambda: name not in self.pins, deadline_s)
            waited_s = time.monotonic() - started
            if not is_free:
                self._resident[name] = version
                return Unloaded(self.name, Left.BUSY, waited_s)
            async with self._one_at_a_time:
                return Unloaded(self.name, await self._take_out(version), waited_s)
        finally:
            self._leaving.pop(name).set()

    def engine_started(self) -> None:
        """Nothing is in a new engine process."""
        self._resident.clear()
        self._loaded_s.clear()
        self.warm.clear()
        self._lingering.clear()
        self._file_locks.release_all(self.name)

    def blamed(self, died_s: float) -> Version | None:
        """The version that was being loaded when the engine died, or whose load was the last thing that happened to it;
        `died_s` is when it did, on `time.monotonic`.
        """
        last, self._last = self._last, None
        return self._in_progress or (last[0] if last and died_s - last[1] < _BLAME_S else None)

    async def sync(self, known: Mapping[str, Version], kept: Collection[str]) -> ResidencyReport | None:
        """Learn from the engine what it really has, and pin exactly `kept` in their slots.

        `known` maps engine names to versions; those found in the engine are taken over, so a gateway that attaches to
        a running engine loads nothing twice. Returns what the engine said, None without our plugin.
        """
        async with self._one_at_a_time:
            self._kept = frozenset(kept)
            found = await self._client.residents()
            self.has_plugin = found is not None
            if found is None:
                return None
            self.slots, self.capacity = found.max_loras, found.max_cpu_loras
            self._take_over(found, known)
            await self._sweep(found, known)
            pinned = {adapter.name for adapter in found.adapters if adapter.pinned}
            for name in pinned ^ (self._kept & self._resident.keys()):
                await self._client.pin_adapter(name, pinned=name not in pinned)
            return found

    def _take_over(self, found: ResidencyReport, known: Mapping[str, Version]) -> None:
        in_memory = [adapter for adapter in found.adapters if adapter.tier is not ResidencyTier.DISK]
        for name in self._resident.keys() - {adapter.name for adapter in in_memory}:
            version = self._resident.pop(name)
            self._file_locks.release(self.name, version)
        strangers = {}
        for adapter in in_memory:
            version_known = known.get(adapter.name)
            if version_known is None or adapter.name in self._resident or adapter.name in self._leaving:
                continue
            if adapter.path == str(self._store.path(version_known.digest).resolve()):
                with contextlib.suppress(StoreError):  # its files are being deleted, so it is no good to us
                    self._file_locks.take(self.name, version_known)
                    strangers[adapter.name] = version_known
        self._resident = strangers | self._resident

    async def _sweep(self, found: ResidencyReport, known: Mapping[str, Version]) -> None:
        """Take out what is no good to anybody: names whose weights the engine dropped, weights without a name."""
        held = self.pins.keys() | self._awaited.keys() | self._resident.keys() | self._leaving.keys()
        for adapter in found.adapters:
            if adapter.tier is ResidencyTier.DISK and adapter.name in known and adapter.name not in held:
                await self._client.remove_adapter(adapter.name)
        if found.unnamed:
            await self._client.remove_adapter("")
        elif self._lingering:
            for version in self._lingering.values():
                self._file_locks.release(self.name, version)
            self._lingering.clear()

    async def _load(self, version: Version) -> None:
        name = version.engine_name
        if leaving := self._leaving.get(name):
            await leaving.wait()
        async with self._one_at_a_time:
            if name in self._resident:
                return
            await self._make_room()
            self._in_progress = version
            try:
                self._file_locks.take(self.name, version)
                path = await FILES.run(self._store.verify, version.digest)
                started = time.perf_counter()
                if not await self._client.load_adapter(name, str(path.resolve())) and self.has_plugin:
                    await self._client.remove_adapter(name)  # a name from before us: who knows what it leads to
                    await self._client.load_adapter(name, str(path.resolve()))
            except (AdapterError, AdapterRefusedError) as error:
                self._file_locks.release(self.name, version)
                self._metrics.loads.labels("refused").inc()
                raise AdapterRefusedError(str(error)) from error
            except GatewayError:  # the engine may have it or not: the lease stays until `sync` or a restart
                self._metrics.loads.labels("failed").inc()
                raise
            finally:
                self._in_progress, self._last = None, (version, time.monotonic())
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
            if not await self._wait_for(lambda: self._coldest() is not None, _ROOM_S):
                raise EngineUnavailableError(
                    f"All {self.capacity} adapters that the engine can hold are in use; raise --max-cpu-loras."
                )
            coldest = self._coldest()
            assert coldest is not None, "there was one a moment ago, and nothing ran since"
            await self._take_out(self._resident.pop(coldest))

    def _coldest(self) -> str | None:
        """The adapter that was not used for longest, of those that nobody holds."""
        held = self.pins.keys() | self._awaited.keys() | self._kept
        return next((name for name in self._resident if name not in held), None)

    async def _wait_for(self, holds: Callable[[], bool], deadline_s: float) -> bool:
        """Wait until something holds that changes when a request ends; False when it does not in time."""
        try:
            async with asyncio.timeout(deadline_s):
                while not holds():
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            return holds()
        return True

    async def _take_out(self, version: Version) -> Left:
        """Remove a version that stands in `_resident` no more and that no request holds."""
        name = version.engine_name
        self.warm.pop(name, None)
        self._loaded_s.pop(name, None)
        if not self.has_plugin:
            await self._client.forget_adapter(name)
            self._file_locks.release(self.name, version)
            return Left.FORGOTTEN
        if await self._client.remove_adapter(name):
            self._file_locks.release(self.name, version)
            return Left.REMOVED
        self._lingering[name] = version
        return Left.LINGERING
