"""Dispatch: a request goes to one engine; to a second one only when the first never accepted it."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapters import Version
from gateway.engine.client import is_unknown_model
from gateway.engine.connection import Connection
from gateway.engine.engine import Engine, Post
from gateway.engine.pool import EnginePool, Hold
from gateway.errors import AdapterGoneError, EngineUnreachableError

_TRIES = 5


@dataclass(slots=True)
class Dispatch:
    """Entering sends the request and gives the answer that begins; leaving closes it and lets go of the engine.

    `trying` is told of each engine before the request goes there.
    """

    pool: EnginePool
    version: Version | None
    post: Callable[[Engine], Post]
    trying: Callable[[Engine], None]
    engine: Engine | None = None
    _hold: Hold | None = None
    _posted: Post | None = None

    async def __aenter__(self) -> tuple[Connection, Engine]:
        try:
            return await self._try_until_loaded(avoid=None)
        except EngineUnreachableError:
            if self.engine is None or len(self.pool.engines) < 2:
                raise
        return await self._try_until_loaded(avoid=self.engine)

    async def _try_until_loaded(self, avoid: Engine | None) -> tuple[Connection, Engine]:
        """An adapter that somebody else takes out of the engine in the last moment is loaded again: it saw nothing."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(AdapterGoneError):
                return await self._try(avoid)
        return await self._try(avoid)

    async def _try(self, avoid: Engine | None) -> tuple[Connection, Engine]:
        self._hold = hold = self.pool.hold(self.version, avoid=avoid)
        self.engine = engine = await hold.__aenter__()
        try:
            self.trying(engine)
            sent_s = time.perf_counter()
            self._posted = posted = self.post(engine)
            connection = await posted.__aenter__()
            if connection.status == 404 and self.version is not None:
                await self._demand_adapter(self.version, engine, posted, connection, sent_s)
            return connection, engine
        except BaseException as error:
            # Not answered: the version that it ran with may be what broke the engine.
            await hold.__aexit__(type(error), error, None)
            raise

    async def _demand_adapter(
        self, version: Version, engine: Engine, posted: Post, connection: Connection, sent_s: float
    ) -> None:
        """Raise `AdapterGoneError` when the engine does not know the adapter, and have it known as not loaded."""
        try:
            if is_unknown_model(await connection.peek(), version.engine_name):
                await connection.read()
                engine.loader.lost(version, sent_s)
                raise AdapterGoneError
        except BaseException as error:
            await posted.__aexit__(type(error), error, None)
            raise

    async def __aexit__(self, *error: Any) -> None:
        assert self._hold is not None
        assert self._posted is not None
        try:
            await self._posted.__aexit__(*error)
        finally:
            await self._hold.__aexit__(*error)
