"""Publish: from an upload or a source to a version that may be routed to, each step durable.

fetch -> preflight -> store -> REGISTERED -> load into the engines -> effect probe -> parity, where the trainer left
vectors -> READY. What fails before it is registered leaves nothing behind. A refusal by the engine, the probe or parity
leaves the version QUARANTINED with the reason. Anything else that ends it in between, a crash included, leaves it
REGISTERED: publishing the same content again, or `verify`, goes on from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from adapters import (
    AdapterRef,
    AllowedSources,
    BaseModel,
    PreflightError,
    Registry,
    State,
    Store,
    StoreError,
    Version,
    fetch,
    preflight,
)
from adapters.archive import unpack
from adapters.conversion import convert as converted_of
from adapters.manifest import Conversion
from adapters.parity_file import read_parity
from adapters.peft_config import PeftConfig
from adapters.preflight import remarks
from adapters.ref import check_name
from gateway.engines.effect_probe import Effect
from gateway.engines.parity import Parity
from gateway.engines.pool import EnginePool
from gateway.errors import AdapterRefusedError, ConflictError, GatewayError, InvalidRequestError
from gateway.releases.errors import translated_errors
from gateway.releases.gate import EvidenceRecorder
from gateway.settings import Settings
from gateway.threads import CRITICAL, FILES, entered_in_file_thread

log = logging.getLogger(__name__)
_SOON_S = 5.0
PREFLIGHT_EVIDENCE = "preflight"
"""Under which the registry keeps what preflight remarked of a version that it let pass."""
PROBE_EVIDENCE = "probe"
"""Under which the registry keeps what the effect probe found."""
PARITY_EVIDENCE = "parity"
"""Under which it keeps how the engine's log-probabilities compare with the trainer's."""


class PublishStep(StrEnum):
    """What is being done for a version right now."""

    FETCHING = "fetching"
    UNPACKING = "unpacking"
    CONVERTING = "converting"
    CHECKING = "checking"
    STORING = "storing"
    HASHING = "hashing"
    LOADING = "loading"
    PROBING = "probing"
    COMPARING = "comparing with training"


@dataclass(slots=True, eq=False)
class PublishJob:
    """One publish or verify while it runs; `version` is known once it is registered."""

    name: str
    step: PublishStep
    version: int | None = None


class Publisher:
    """Brings versions in and proves them; `work` is what it is doing now."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        pool: EnginePool,
        sources: AllowedSources,
        *,
        evidences: EvidenceRecorder,
        base: BaseModel | None,
        base_name: str,
        max_rank: int,
        max_bytes: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._pool = pool
        self._sources = sources
        self._evidences = evidences
        self._base = base
        self._base_name = base_name
        self._max_rank = max_rank
        self.max_bytes = max_bytes
        self._one_proof = asyncio.Lock()
        self.work: list[PublishJob] = []

    async def publish_archive(self, name: str, archive: Path, *, actor: str, convert: bool = False) -> Version:
        """Publish an uploaded archive as the next version of `name`; `convert` brings it into PEFT's layout first."""
        self._check(name)
        with translated_errors(), self._working(name, PublishStep.UNPACKING) as work:
            async with entered_in_file_thread(self._store.incoming()) as scratch:
                await FILES.run(unpack, archive, scratch, max_bytes=self.max_bytes, convert=convert)
                return await self._publish(work, scratch, actor, {"source": "upload"}, convert=convert)

    async def publish_source(self, name: str, source: str, *, actor: str, convert: bool = False) -> Version:
        """Publish what lies at a source that the operator allowed as the next version of `name`."""
        self._check(name)
        with translated_errors(), self._working(name, PublishStep.FETCHING) as work:
            async with entered_in_file_thread(self._store.incoming()) as scratch:
                origin = await FILES.run(
                    fetch, source, scratch, max_bytes=self.max_bytes, allowed=self._sources, convert=convert
                )
                return await self._publish(work, scratch, actor, asdict(origin), convert=convert)

    async def verify(self, name: str, number: int, *, actor: str) -> str:
        """Re-hash a version's files and prove it anew; returns why it failed, or nothing when it passed.

        One that is registered or quarantined becomes READY when it passes. One that fails is quarantined, unless it
        takes traffic: then it stays, because what the engines have loaded was whole.
        """
        self._pool.require_ready()
        with translated_errors(), self._working(name, PublishStep.HASHING) as work:
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            if version.state is State.RETIRED:
                raise ConflictError(f"{name}@v{number} is retired; publish its content again to bring it back.")
            work.version = number
            async with self._one_proof:
                try:
                    directory = await FILES.run(self._store.verify, version.digest)
                    work.step = PublishStep.CHECKING
                    _, said = await self._preflight(directory)
                    await self._remark(version, said, actor)
                    await self._prove(work, version, actor)
                except (StoreError, PreflightError, AdapterRefusedError) as error:
                    await self._refuse(version, str(error), actor)
                    why = f"it did not pass when it was verified: {error}"
                    await self._in_thread(self._evidences.withdraw_approval, version, why, actor=actor)
                    return str(error)
                await self._accept(version, actor)
                return ""

    def _check(self, name: str) -> None:
        with translated_errors():
            check_name(name)
        if name == self._base_name:
            raise InvalidRequestError(f"'{name}' is the base model's name; choose another.", param="name")
        self._pool.require_ready()

    async def _publish(
        self, work: PublishJob, directory: Path, actor: str, origin: Mapping[str, Any], *, convert: bool
    ) -> Version:
        converted: Conversion | None = None
        if convert:
            work.step = PublishStep.CONVERTING
            converted = await FILES.run(converted_of, directory)
        work.step = PublishStep.CHECKING
        config, said = await self._preflight(directory)
        work.step = PublishStep.STORING
        manifest = await FILES.run(self._store.put, directory, config, converted)
        if converted is not None:
            origin = {**origin, "converted": "; ".join(converted.steps), "original": converted.original_digest}
        version = await CRITICAL.run(self._registry.add, work.name, manifest, actor=actor, evidence=origin)
        work.version = version.version
        await self._remark(version, said, actor)
        async with self._one_proof:
            version = self._now(version)  # the same content may have been published twice at once
            if version.state is State.QUARANTINED:
                raise AdapterRefusedError(
                    f"This content is {version.name}@v{version.version}, which is quarantined: {version.reason} "
                    f"`turntable adapters verify {version.name} v{version.version}` tries it again."
                )
            if version.state is State.READY:
                await self._pool.load(version)
                return version
            try:
                await self._prove(work, version, actor)
            except AdapterRefusedError as error:
                await self._refuse(version, str(error), actor)
                raise
            return await self._accept(version, actor)

    async def _preflight(self, directory: Path) -> tuple[PeftConfig, tuple[str, ...]]:
        max_rank = self._pool.max_lora_rank or self._max_rank
        config = await FILES.run(preflight, directory, self._base, max_rank=max_rank)
        return config, await FILES.run(remarks, directory, self._base, config)

    async def _remark(self, version: Version, said: tuple[str, ...], actor: str) -> None:
        """Keep what is odd about a version, and that nothing is any more."""
        known = await self._in_thread(self._registry.evidence, version.name, version.version)
        before: list[str] = next((one.document["warnings"] for one in known if one.kind == PREFLIGHT_EVIDENCE), [])
        if list(said) != before:
            await self._record(version, PREFLIGHT_EVIDENCE, {"warnings": list(said)}, actor)

    async def _prove(self, work: PublishJob, version: Version, actor: str) -> None:
        work.step = PublishStep.LOADING
        await self._pool.load(version)
        work.step = PublishStep.PROBING
        found = await self._pool.probe(version)
        await self._record(version, PROBE_EVIDENCE, found.document(), actor)
        if found.verdict is Effect.NO_EFFECT:
            raise AdapterRefusedError(
                "The adapter changes nothing: its log-probabilities equal the base's on every prompt of the probe; "
                "check that its tensors are named after the base's modules and that it was trained."
            )

        await self._compare_with_training(work, version, actor)

    async def _compare_with_training(self, work: PublishJob, version: Version, actor: str) -> None:
        """Where the trainer left vectors, the engine must agree with them."""
        rows = await FILES.run(read_parity, self._store.path(version.digest))
        if not rows:
            return
        work.step = PublishStep.COMPARING
        found = await self._pool.parity(version, rows)
        if found is None:
            return
        await self._record(version, PARITY_EVIDENCE, found.document(), actor)
        if found.verdict is not Parity.PASS:
            raise AdapterRefusedError(found.sentence)

    async def _record(self, version: Version, kind: str, document: Mapping[str, Any], actor: str) -> None:
        await self._in_thread(self._registry.record_evidence, version, kind, document, actor=actor)

    async def _refuse(self, version: Version, reason: str, actor: str) -> None:
        """Quarantine a version that is not in traffic, and take it out of the engines."""
        now = self._now(version)
        if now.version in self._registry.snapshot.policies[now.name].routed:
            return log.error("%s@v%d takes traffic and does not pass: %s", now.name, now.version, reason)
        if now.state is not State.QUARANTINED or now.reason != reason:
            await self._in_thread(self._registry.set_state, now, State.QUARANTINED, reason, actor=actor)
        with contextlib.suppress(GatewayError):  # it is not routable; the engine forgets what it does not use
            await self._pool.unload(version, deadline_s=_SOON_S)
        return None

    async def _accept(self, version: Version, actor: str) -> Version:
        now = self._now(version)
        if now.state is State.READY:
            return now
        ready: Version = await self._in_thread(self._registry.set_state, now, State.READY, "", actor=actor)
        return ready

    def _now(self, version: Version) -> Version:
        return self._registry.snapshot.resolve(AdapterRef(version.name, version=version.version))

    async def _in_thread(self, change: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await CRITICAL.run(partial(change, *arguments, **options))

    @contextlib.contextmanager
    def _working(self, name: str, step: PublishStep) -> Iterator[PublishJob]:
        work = PublishJob(name, step)
        self.work.append(work)
        try:
            yield work
        finally:
            self.work.remove(work)


def build_publisher(
    settings: Settings,
    registry: Registry,
    store: Store,
    pool: EnginePool,
    evidences: EvidenceRecorder,
    base: BaseModel | None,
    *,
    max_rank: int,
) -> Publisher:
    """The publisher that the settings describe."""
    return Publisher(
        registry,
        store,
        pool,
        AllowedSources(settings.adapter_sources, settings.hub_endpoint, settings.s3_endpoint),
        evidences=evidences,
        base=base,
        base_name=settings.served_model_name,
        max_rank=max_rank,
        max_bytes=settings.max_upload_bytes,
    )
