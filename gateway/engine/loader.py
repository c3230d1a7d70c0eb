"""The loader: makes an adapter resident in the engine and keeps it there while requests use it.

One load at a time, because a load stalls every running stream; the same adapter asked for twice is loaded once. Each
version has an engine name of its own, so a swap never touches running requests and never meets a stale prefix cache.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from adapters import AdapterError, Store, Version
from gateway.engine.client import EngineClient
from gateway.errors import AdapterRefusedError, GatewayError
from gateway.metrics import Metrics


class AdapterLoader:
    """Which versions the engine has by name, and how many requests hold each."""

    def __init__(self, client: EngineClient, store: Store, metrics: Metrics, *, slots: int) -> None:
        self._client = client
        self._store = store
        self._metrics = metrics
        self._slots = slots
        self._resident: set[str] = set()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()
        self.pins: Counter[str] = Counter()
        self.warm: dict[str, None] = {}
        """The latest adapters used here, as many as the engine has slots: what it needs not bring in again."""

    @property
    def resident(self) -> frozenset[str]:
        """Engine names that the engine serves now."""
        return frozenset(self._resident)

    @contextlib.asynccontextmanager
    async def pin(self, version: Version) -> AsyncIterator[None]:
        """Hold a version in the engine for the length of a request."""
        name = version.engine_name
        self.pins[name] += 1
        self._touch(name)
        try:
            if name not in self._resident:
                await self.ensure(version)
            yield
        finally:
            self.pins[name] -= 1

    def is_warm(self, version: Version | None) -> bool:
        """Whether requests for a version start here at once; the base (None) always does."""
        return version is None or version.engine_name in self.warm

    def _touch(self, name: str) -> None:
        self.warm.pop(name, None)
        self.warm[name] = None
        if len(self.warm) > self._slots:
            del self.warm[next(iter(self.warm))]

    async def ensure(self, version: Version) -> None:
        """Load a version unless it is resident; concurrent callers share one load and its outcome."""
        name = version.engine_name
        if name in self._resident:
            return
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(version))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        await asyncio.shield(task)

    async def restore(self, versions: Iterable[Version]) -> list[tuple[Version, AdapterRefusedError]]:
        """After an engine start: nothing is resident; load what is live, and report what the engine refused."""
        self._resident.clear()
        self.warm.clear()
        failures: list[tuple[Version, AdapterRefusedError]] = []
        for version in versions:
            try:
                await self.ensure(version)
            except AdapterRefusedError as error:
                failures.append((version, error))
        return failures

    async def _load(self, version: Version) -> None:
        async with self._one_at_a_time:
            try:
                path = await asyncio.to_thread(self._store.verify, version.digest)
                started = time.perf_counter()
                await self._client.load_adapter(version.engine_name, str(path.resolve()))
            except AdapterError as error:
                self._metrics.adapter_loads.labels("refused").inc()
                raise AdapterRefusedError(str(error)) from error
            except GatewayError:
                self._metrics.adapter_loads.labels("failed").inc()
                raise
            self._metrics.adapter_load_s.observe(time.perf_counter() - started)
            self._metrics.adapter_loads.labels("loaded").inc()
            self._resident.add(version.engine_name)
