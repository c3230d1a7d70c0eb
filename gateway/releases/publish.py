"""Publish an adapter: from an upload or a source to a version that is ready for traffic, each step durable.

fetch -> preflight -> store -> REGISTERED -> load into the engines -> effect probe -> parity, where the trainer left
vectors -> READY. A failure before REGISTERED leaves nothing behind. A refusal by the engine, the probe or parity leaves
the version QUARANTINED with the reason. Any other failure in between, a crash included, leaves it REGISTERED:
publishing the same content again, or `verify`, resumes from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
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
from gateway.releases.promotion_gate import EvidenceRecorder
from gateway.threads import CRITICAL, FILES, entered_in_file_thread

log = logging.getLogger(__name__)
_UNLOAD_S = 5.0
PREFLIGHT_EVIDENCE = "preflight"
"""Kind of evidence: warnings of the preflight of a version that passed it."""
PROBE_EVIDENCE = "probe"
"""Kind of evidence: result of the effect probe."""
PARITY_EVIDENCE = "parity"
"""Kind of evidence: the engine's log-probabilities compared with the trainer's."""


class PublishStep(StrEnum):
    """Running step of a publish or verification."""

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
    """A running publish or verification; `version` is None until it is registered."""

    name: str
    step: PublishStep
    version: int | None = None


class Publisher:
    """Publishes and verifies versions; `jobs` are those running now."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: Store,
        pool: EnginePool,
        sources: AllowedSources,
        recorder: EvidenceRecorder,
        base: BaseModel | None,
        base_name: str,
        max_rank: int,
        max_bytes: int,
    ) -> None:
        self._registry = registry
        self._store = store
        self._pool = pool
        self._sources = sources
        self._recorder = recorder
        self._base = base
        self._base_name = base_name
        self._max_rank = max_rank
        self.max_bytes = max_bytes
        self._one_at_a_time = asyncio.Lock()
        self.jobs: list[PublishJob] = []

    async def publish_archive(self, name: str, archive: Path, *, actor: str, convert: bool = False) -> Version:
        """Publish an uploaded archive as the next version of `name`; `convert` converts it to PEFT's layout first."""
        self._require_publishable(name)
        with translated_errors(), self._job(name, PublishStep.UNPACKING) as job:
            async with entered_in_file_thread(self._store.incoming()) as scratch:
                await FILES.run(unpack, archive, scratch, max_bytes=self.max_bytes, convert=convert)
                return await self._publish(job, scratch, actor, {"source": "upload"}, convert=convert)

    async def publish_source(self, name: str, source: str, *, actor: str, convert: bool = False) -> Version:
        """Publish the adapter at an allowed source as the next version of `name`."""
        self._require_publishable(name)
        with translated_errors(), self._job(name, PublishStep.FETCHING) as job:
            async with entered_in_file_thread(self._store.incoming()) as scratch:
                origin = await FILES.run(
                    fetch, source, scratch, max_bytes=self.max_bytes, allowed=self._sources, convert=convert
                )
                return await self._publish(job, scratch, actor, asdict(origin), convert=convert)

    async def verify(self, name: str, number: int, *, actor: str) -> str:
        """Re-hash a version's files and repeat all checks; returns the reason of a failure, "" when it passed.

        A registered or quarantined version that passes becomes READY. One that fails is quarantined, unless it takes
        traffic: then it stays, because the copy in the engines was intact.
        """
        self._pool.require_ready()
        with translated_errors(), self._job(name, PublishStep.HASHING) as job:
            version = self._registry.snapshot.resolve(AdapterRef(name, version=number))
            if version.state is State.RETIRED:
                raise ConflictError(f"{name}@v{number} is retired; publish its content again to bring it back.")
            job.version = number
            async with self._one_at_a_time:
                try:
                    directory = await FILES.run(self._store.verify, version.digest)
                    job.step = PublishStep.CHECKING
                    _, warnings = await self._preflight(directory)
                    await self._record_warnings(version, warnings, actor)
                    await self._check_in_engine(job, version, actor)
                except (StoreError, PreflightError, AdapterRefusedError) as error:
                    await self._quarantine(version, str(error), actor)
                    why = f"it failed verification: {error}"
                    await CRITICAL.run(self._recorder.withdraw_approval, version, why, actor=actor)
                    return str(error)
                await self._mark_ready(version, actor)
                return ""

    def _require_publishable(self, name: str) -> None:
        with translated_errors():
            check_name(name)
        if name == self._base_name:
            raise InvalidRequestError(f"'{name}' is the base model's name; choose another.", param="name")
        self._pool.require_ready()

    async def _publish(
        self, job: PublishJob, directory: Path, actor: str, origin: Mapping[str, Any], *, convert: bool
    ) -> Version:
        converted: Conversion | None = None
        if convert:
            job.step = PublishStep.CONVERTING
            converted = await FILES.run(converted_of, directory)
        job.step = PublishStep.CHECKING
        config, warnings = await self._preflight(directory)
        job.step = PublishStep.STORING
        manifest = await FILES.run(self._store.put, directory, config, converted)
        if converted is not None:
            origin = {**origin, "converted": "; ".join(converted.steps), "original": converted.original_digest}
        version = await CRITICAL.run(self._registry.add, job.name, manifest, actor=actor, evidence=origin)
        job.version = version.version
        await self._record_warnings(version, warnings, actor)
        async with self._one_at_a_time:
            version = self._latest(version)  # the same content may have been published twice at once
            if version.state is State.QUARANTINED:
                raise AdapterRefusedError(
                    f"This content is {version.name}@v{version.version}, which is quarantined: {version.reason} "
                    f"`turntable adapters verify {version.name} v{version.version}` tries it again."
                )
            if version.state is State.READY:
                await self._pool.load(version)
                return version
            try:
                await self._check_in_engine(job, version, actor)
            except AdapterRefusedError as error:
                await self._quarantine(version, str(error), actor)
                raise
            return await self._mark_ready(version, actor)

    async def _preflight(self, directory: Path) -> tuple[PeftConfig, tuple[str, ...]]:
        max_rank = self._pool.max_lora_rank or self._max_rank
        config = await FILES.run(preflight, directory, self._base, max_rank=max_rank)
        return config, await FILES.run(remarks, directory, self._base, config)

    async def _record_warnings(self, version: Version, warnings: tuple[str, ...], actor: str) -> None:
        """Record the warnings of a version if they changed."""
        known = await CRITICAL.run(self._registry.evidence, version.name, version.version)
        before: list[str] = next(
            (evidence.document["warnings"] for evidence in known if evidence.kind == PREFLIGHT_EVIDENCE), []
        )
        if list(warnings) != before:
            await self._record(version, PREFLIGHT_EVIDENCE, {"warnings": list(warnings)}, actor)

    async def _check_in_engine(self, job: PublishJob, version: Version, actor: str) -> None:
        job.step = PublishStep.LOADING
        await self._pool.load(version)
        job.step = PublishStep.PROBING
        found = await self._pool.probe(version)
        await self._record(version, PROBE_EVIDENCE, found.document(), actor)
        if found.verdict is Effect.NO_EFFECT:
            raise AdapterRefusedError(
                "The adapter has no effect: its log-probabilities equal the base model's on every probe prompt; "
                "check that its tensors are named after the base's modules and that it was trained."
            )

        await self._compare_with_training(job, version, actor)

    async def _compare_with_training(self, job: PublishJob, version: Version, actor: str) -> None:
        """Compare the engine with the trainer's vectors, if the version has any."""
        rows = await FILES.run(read_parity, self._store.path(version.digest))
        if not rows:
            return
        job.step = PublishStep.COMPARING
        found = await self._pool.parity(version, rows)
        if found is None:
            return
        await self._record(version, PARITY_EVIDENCE, found.document(), actor)
        if found.verdict is not Parity.PASS:
            raise AdapterRefusedError(found.sentence)

    async def _record(self, version: Version, kind: str, document: Mapping[str, Any], actor: str) -> None:
        await CRITICAL.run(self._registry.record_evidence, version, kind, document, actor=actor)

    async def _quarantine(self, version: Version, reason: str, actor: str) -> None:
        """Quarantine a version without traffic and unload it; one with traffic stays, and the log says so."""
        now = self._latest(version)
        if now.version in self._registry.snapshot.policies[now.name].routed:
            return log.error("%s@v%d takes traffic and failed verification: %s", now.name, now.version, reason)
        if now.state is not State.QUARANTINED or now.reason != reason:
            await CRITICAL.run(self._registry.set_state, now, State.QUARANTINED, reason, actor=actor)
        with contextlib.suppress(GatewayError):  # it is not routable; the engine forgets what it does not use
            await self._pool.unload(version, deadline_s=_UNLOAD_S)
        return None

    async def _mark_ready(self, version: Version, actor: str) -> Version:
        now = self._latest(version)
        if now.state is State.READY:
            return now
        return await CRITICAL.run(self._registry.set_state, now, State.READY, "", actor=actor)

    def _latest(self, version: Version) -> Version:
        return self._registry.snapshot.resolve(AdapterRef(version.name, version=version.version))

    @contextlib.contextmanager
    def _job(self, name: str, step: PublishStep) -> Iterator[PublishJob]:
        job = PublishJob(name, step)
        self.jobs.append(job)
        try:
            yield job
        finally:
            self.jobs.remove(job)
