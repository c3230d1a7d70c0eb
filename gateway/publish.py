"""Publish and promote: from an upload to a version that applications can name.

unpack -> preflight -> store -> registry -> load into the engine -> READY. A failure before the registry leaves
nothing behind; a refusal by the engine leaves the version QUARANTINED with the reason, never routable.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from adapters import (
    AdapterError,
    AdapterRef,
    ArchiveError,
    BaseModel,
    InvalidRefError,
    NotReadyError,
    PreflightError,
    Registry,
    StaleLiveError,
    State,
    Store,
    StoreError,
    UnknownAdapterError,
    Version,
    preflight,
)
from adapters.archive import unpack
from adapters.ref import check_name
from gateway.engine.pool import EnginePool
from gateway.errors import (
    AdapterRefusedError,
    ConflictError,
    DiskError,
    GatewayError,
    InvalidRequestError,
    NotFoundError,
)

log = logging.getLogger(__name__)


class Publisher:
    """What the admin surface does with adapters."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        pool: EnginePool,
        *,
        base: BaseModel | None,
        base_name: str,
        max_rank: int,
        max_bytes: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._pool = pool
        self._base = base
        self._base_name = base_name
        self._max_rank = max_rank
        self._max_bytes = max_bytes

    async def publish_archive(self, name: str, archive: Path, *, actor: str) -> Version:
        """Publish an uploaded tar.gz as the next version of `name`."""
        self._check(name)
        with translated_errors(), self._store.incoming() as scratch:
            await asyncio.to_thread(unpack, archive, scratch, max_bytes=self._max_bytes)
            return await self._publish(name, scratch, actor)

    async def publish_directory(self, name: str, directory: Path, *, actor: str) -> Version:
        """Publish a directory on the gateway's own machine as the next version of `name`."""
        self._check(name)
        if not await asyncio.to_thread(directory.is_dir):
            raise InvalidRequestError("'source' is not a directory on the gateway's machine.", param="source")
        with translated_errors():
            return await self._publish(name, directory, actor)

    async def promote(self, name: str, number: int, *, expect_live: int | None, actor: str) -> Version:
        """Make a READY version live, resident in the engine before any request is sent to it."""
        with translated_errors():
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            if version.state is State.READY:
                await self._pool.load(version)
            return await asyncio.to_thread(
                partial(self._registry.promote, name, number, actor=actor, expect_live=expect_live)
            )

    def _check(self, name: str) -> None:
        with translated_errors():
            check_name(name)
        if name == self._base_name:
            raise InvalidRequestError(f"'{name}' is the base model's name; choose another.", param="name")
        self._pool.require_ready()

    async def _publish(self, name: str, directory: Path, actor: str) -> Version:
        config = await asyncio.to_thread(preflight, directory, self._base, max_rank=self._max_rank)
        manifest = await asyncio.to_thread(self._store.put, directory, config)
        version = await asyncio.to_thread(partial(self._registry.add, name, manifest, actor=actor))
        if version.state is State.READY:
            await self._pool.load(version)
            return version
        try:
            await self._pool.load(version)
        except AdapterRefusedError as error:
            await self._move(version, State.QUARANTINED, str(error), actor)
            raise
        return await self._move(version, State.READY, "", actor)

    async def _move(self, version: Version, state: State, reason: str, actor: str) -> Version:
        return await asyncio.to_thread(partial(self._registry.set_state, version, state, reason, actor=actor))


def parse_version(text: str) -> int:
    """`v3` as 3; raises `InvalidRequestError`."""
    with translated_errors():
        version = AdapterRef.parse(f"x@{text}").version
    if version is None:
        raise InvalidRequestError(f"'{text}' is not a version; write it like v3.", param="version")
    return version


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of the adapters package as HTTP errors."""
    try:
        yield
    except AdapterError as error:
        raise _translate(error) from error


def _translate(error: AdapterError) -> GatewayError:
    if isinstance(error, PreflightError):
        return AdapterRefusedError(str(error), param=error.where)
    if isinstance(error, InvalidRefError):
        return InvalidRequestError(str(error), param="name")
    if isinstance(error, ArchiveError):
        return InvalidRequestError(str(error), param="file")
    if isinstance(error, UnknownAdapterError):
        return NotFoundError(str(error))
    if isinstance(error, NotReadyError | StaleLiveError):
        return ConflictError(str(error))
    if isinstance(error, StoreError):
        log.error("%s", error)
        return DiskError("The adapter store cannot be written or read; its disk needs attention.")
    return InvalidRequestError(str(error))
