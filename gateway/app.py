"""The composition root: builds every object once, wires them, and is the only place that knows them all."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import Engine as Database

from adapters import Registry, Store
from gateway.admin_api.adapter_documents import AdapterDocuments
from gateway.admin_api.adapters import AdapterServices, adapter_routes
from gateway.admin_api.costs import cost_routes
from gateway.admin_api.engines import engine_routes
from gateway.admin_api.error_handlers import add_error_handlers
from gateway.admin_api.health import health_routes
from gateway.admin_api.keys import key_routes
from gateway.admin_api.models import model_routes
from gateway.admin_api.openapi import add_docs
from gateway.admin_api.permissions import Guards
from gateway.admin_api.quality import feedback_routes, watching_routes
from gateway.admin_api.rollout import gate_routes, rollout_routes
from gateway.admin_api.usage import request_routes, usage_routes
from gateway.admin_api.vllm_lora import vllm_lora_routes
from gateway.auth.service import open_keys
from gateway.background import Background, Periodic
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.plan import UNPRICED, EnginePrices
from gateway.costs.refresh import CostGauges, CostRefresher
from gateway.costs.report import CostReports
from gateway.costs.request_price import RequestPrices
from gateway.database import database_file, open_database
from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.adapter_reconciler import Reconciler
from gateway.engines.client import EngineClient
from gateway.engines.engine import Engine
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.pool import EnginePool
from gateway.engines.process import EngineSpec, engine_names
from gateway.engines.residency import ThrashMonitor
from gateway.engines.slot_plan import SlotPlan
from gateway.engines.supervisor import Patience, Supervisor
from gateway.every_second import EverySecond
from gateway.inference.admission import Admission
from gateway.inference.cache_salts import CacheSalts
from gateway.inference.endpoint import InferenceEndpoint, Scope
from gateway.inference.formats import APIS
from gateway.inference.pipeline import InferencePipeline
from gateway.inference.poison_requests import PoisonRequests
from gateway.inference.request_run import Timeouts
from gateway.inference.routing import Resolver
from gateway.inference.settlement import Settlement
from gateway.metering import Ledger, OwnRequests
from gateway.metering.engine_uptime import AdapterLoads, EngineRuns
from gateway.metering.reconcile.engine_counters import EngineCounterReader, EngineCounterStore
from gateway.metering.reconcile.ledger_totals import keep_pruned_totals
from gateway.metering.reconcile.reconciliation import ReconcileGauges, ReconcileMonitor, Reconciliation
from gateway.metering.reconcile.recovery import Recovery
from gateway.metering.refusal_log import RefusalLog
from gateway.metering.request_history import RequestHistory
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.service import Metering
from gateway.metering.usage_summary import UsageSummary
from gateway.metrics import Metrics
from gateway.quality.service import build_quality_monitoring
from gateway.quota.service import QuotaService
from gateway.releases.canary import CanaryMonitor
from gateway.releases.gate import EvidenceRecorder, build_gate
from gateway.releases.publish import build_publisher
from gateway.releases.rollout import Rollout
from gateway.releases.shadow import Shadows
from gateway.server.cycle import Receive, Send
from gateway.server.middleware import middleware, with_middleware
from gateway.server.request_body import BodyReader
from gateway.server.request_id import RequestIds
from gateway.settings import Settings
from gateway.threads import REPORTS, bound_route_threads, join_all
from gateway.tracing import Telemetry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What the command line found out before the app is built.

    `spec` starts a managed engine at the only one of `engine_urls` (None attaches to them); `base_dir` holds the
    base's files when they are at hand; `announce` takes a line for the operator; `give_up` ends the server because the
    engine cannot start. `plan` says how many adapters the engines hold.
    """

    settings: Settings
    admin_key: str
    engine_urls: Sequence[str]
    spec: EngineSpec | None
    base_dir: Path | None
    announce: Callable[[str], None]
    give_up: Callable[[str], None]
    plan: SlotPlan


class Turntable:
    """The ASGI application: inference goes straight to its endpoint, everything else through FastAPI."""

    def __init__(self, setup: Setup) -> None:
        settings, base = setup.settings, setup.settings.served_model_name
        self._give_up = setup.give_up
        self._database = database = open_database(settings.database)
        self._keys = open_keys(settings, database, setup.admin_key)
        self._metrics = metrics = Metrics()
        self._background = background = Background(metrics.registry)
        self._registry = registry = Registry(database)
        store, resolver, ids = Store(settings.adapters_dir), Resolver(registry, base), RequestIds()
        self._ledger = Ledger(database, settings.ledger_dir, most_bytes=settings.max_journal_bytes, soon=_soon)
        engine_prices = EnginePrices(settings.data_dir, settings.engine_usd_per_hour)
        self._runs = EngineRuns(database, engine_prices.nano_usd_per_hour)
        names = engine_names(settings, setup.engine_urls, is_managed=setup.spec is not None)
        request_prices = self._build_costs(settings, database, lambda: engine_prices.highest(names))
        if engine_prices.highest(names) is None:
            setup.announce(UNPRICED)
        self._admission, self._suspects = build_admission(settings), PoisonRequests(settings.suspect_s)
        self._pool = build_pool(setup, registry, store, metrics, self._suspects, AdapterLoads(database))
        self._telemetry = Telemetry(settings.otlp_endpoint) if settings.otlp_endpoint else None
        self._accounting = QuotaService.build(database, self._ledger, self._pool.engines, metrics.registry, background)
        self._gate = gate = build_gate(settings, setup.base_dir)
        self._watching = build_quality_monitoring(
            settings, database, registry, gate.served, self._ledger.flush, metrics.registry
        )
        inference = self._build_pipeline(settings, resolver, request_prices)
        self._observe(inference, settings)
        self._refusals = RefusalLog(settings.data_dir / "refusals")
        self._inference = InferenceEndpoint(inference, ids, self._refusals, keep_alive_s=settings.keep_alive_s)
        self._heart = self._build_heart()
        self._metering = self._build_metering(settings, inference, request_prices)
        leaving = background.group("leaving_versions")
        self._rollout = Rollout(registry, store, self._pool, self._gate, leaving, drain_s=settings.drain_timeout_s)
        stack = middleware(settings=settings, ids=ids, paths=APIS, inference=self._inference)
        self._app = with_middleware(self._build_rest(setup, registry, store, resolver), stack)

    def _build_pipeline(self, settings: Settings, resolver: Resolver, prices: RequestPrices) -> InferencePipeline:
        asking = self._background.group("settlement")
        return InferencePipeline(
            keyring=self._keys.keyring,
            bodies=BodyReader(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s),
            resolver=resolver,
            samples=self._watching.sampler.should_sample,
            poison=self._suspects,
            quota=self._accounting.allowance,
            prices=prices,
            admission=self._admission,
            salts=CacheSalts(self._keys.digest, is_shared=settings.share_prefix_cache),
            settlement=Settlement(self._ledger, self._pool, prices, self._metrics, asking),
            pool=self._pool,
            timeouts=Timeouts(settings.first_byte_timeout_s, settings.total_timeout_s),
            base=settings.served_model_name,
            max_sequences=settings.max_sequences,
        )

    def _build_heart(self) -> EverySecond:
        return EverySecond(
            self._pool,
            self._admission,
            self._suspects,
            self._ledger,
            self._registry,
            self._runs,
            self._keys,
            self._metrics,
            database_file(self._database),
        )

    def _observe(self, inference: InferencePipeline, settings: Settings) -> None:
        """Have everybody see each request at its end who learns from it."""
        registry, traffic, background = self._registry, self._metrics.traffic, self._background
        self._watch = CanaryMonitor(registry, traffic, background.group("canary_rollbacks"))
        self._shadows = Shadows(
            registry,
            inference,
            self._admission,
            traffic,
            background.group("shadows"),
            most_running=settings.max_shadowed,
        )
        inference.settlement.observe(self._watch.ended, self._shadows.ended, self._watching.sampler.ended)
        if self._telemetry is not None:
            inference.settlement.observe(self._telemetry.record)

    def _build_costs(
        self, settings: Settings, database: Database, usd_per_hour: Callable[[], int | None]
    ) -> RequestPrices:
        self._usage, request_prices = UsageSummary(database, self._ledger.flush), RequestPrices()
        evidence, base = CostEvidenceStore(database), settings.served_model_name
        self._cost_office = CostReports(self._usage, self._runs, evidence, settings.data_dir, base=base)
        gauges = CostGauges(self._metrics.registry)
        self._cost_watch = CostRefresher(self._cost_office, gauges, request_prices, usd_per_hour)
        self._cost_watch.begin()
        return request_prices

    def _build_metering(self, settings: Settings, inference: InferencePipeline, prices: RequestPrices) -> Metering:
        database, ledger, pool = self._database, self._ledger, self._pool
        counters = EngineCounterStore(database, ledger.run)
        reader = EngineCounterReader(counters)
        for engine in pool.engines:
            engine.supervisor.on_start(partial(reader.read, engine.name, engine.client))
            engine.client.record_own_requests(_own_requests(ledger, engine, inference))
        reconciliation = Reconciliation(database, counters, ledger.flush)
        monitor = ReconcileMonitor(
            pool,
            reader=reader,
            counters=counters,
            reconciliation=reconciliation,
            gauges=ReconcileGauges(self._metrics.registry),
            recovery=Recovery(database, pool, ledger.gateway, prices),
        )
        return Metering(
            database=database,
            ledger=ledger,
            summary=self._usage,
            retention=Retention(database, self._usage, keep_pruned_totals),
            erasure=TenantErasure(database, ledger.flush),
            reconciliation=reconciliation,
            monitor=monitor,
            note_progress=inference.settlement.note_progress,
            settle_all=inference.settlement.close,
            retention_days=settings.ledger_retention_days,
            reconcile_every_s=settings.reconcile_every_s,
        )

    def _build_rest(self, setup: Setup, registry: Registry, store: Store, resolver: Resolver) -> FastAPI:
        settings, base = setup.settings, setup.settings.served_model_name
        recorder, guards, watching = EvidenceRecorder(registry, self._gate), Guards(self._keys.keyring), self._watching
        publisher = build_publisher(
            settings, registry, store, self._pool, recorder, self._gate.served.files, max_rank=setup.plan.max_lora_rank
        )
        rollout, documents = self._rollout, AdapterDocuments(registry, self._pool, publisher, self._gate)
        services = AdapterServices(
            publisher, rollout, registry, store, documents, self._watch, self._shadows, watching.reviewer
        )
        rest = FastAPI(title="Turntable", lifespan=self._lifespan, docs_url=None, redoc_url=None)
        for routes in (
            model_routes(registry, resolver, base, guards.inference),
            adapter_routes(services, guards.admin),
            rollout_routes(rollout, documents, guards.admin),
            gate_routes(recorder, self._gate, documents, guards.admin),
            vllm_lora_routes(publisher, rollout, registry, base, guards.admin),
            usage_routes(
                self._metering,
                base=base,
                usage=guards.usage,
                admin=guards.admin,
                erase_refusals=self._refusals.erase_tenant,
            ),
            request_routes(RequestHistory(self._database, self._refusals, self._ledger.flush), guards.admin),
            cost_routes(self._cost_office, self._cost_watch, usage=guards.usage, admin=guards.admin),
            health_routes(
                self._pool,
                self._metrics,
                self._background,
                database_file(self._database),
                None if settings.public_metrics else guards.metrics,
            ),
            engine_routes(self._pool, setup.plan, admin=guards.admin),
            key_routes(self._keys, self._accounting.standings, guards.admin, watching.feedback.erase_tenant),
            feedback_routes(watching.feedback, guards.inference, guards.admin),
            watching_routes(watching, guards.admin),
        ):
            rest.include_router(routes)
        add_docs(rest)
        add_error_handlers(rest)
        return rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        bound_route_threads()
        async with contextlib.AsyncExitStack() as closing:  # whatever one part does, the next is closed as well
            closing.callback(self._database.dispose)
            closing.push_async_callback(join_all)  # work of cancelled callers uses the database
            if self._telemetry is not None:
                closing.push_async_callback(REPORTS.run, self._telemetry.close)
            closing.push_async_callback(REPORTS.run, self._accounting.close)
            closing.push_async_callback(REPORTS.run, self._ledger.close)
            closing.push_async_callback(REPORTS.run, self._refusals.flush)
            closing.callback(self._pool.leases.close)
            for engine in self._pool.engines:
                closing.callback(engine.client.close)
            for part in (self._watching, self._metering, self._rollout, self._shadows, self._watch, self._background):
                closing.push_async_callback(part.close)
            for engine in self._pool.engines:
                closing.push_async_callback(_cancelled, asyncio.create_task(self._supervise(engine)))
            self._background.start(self._periodic())
            yield

    def _periodic(self) -> Iterator[Periodic]:
        """All periodic work of this gateway."""
        background = self._background
        yield from self._heart.periodic(background)
        yield from self._cost_watch.periodic(background)
        yield from self._metering.periodic(background)
        yield from self._accounting.periodic()
        yield from self._watching.periodic(background)
        yield from self._watch.periodic()
        yield self._refusals.periodic(background)

    async def _supervise(self, engine: Engine) -> None:
        try:
            await engine.supervisor.run()
        except Exception as error:
            log.debug("supervisor of %s ended", engine.name, exc_info=True)
            self._give_up(str(error))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _own_requests(ledger: Ledger, engine: Engine, inference: InferencePipeline) -> OwnRequests:
    return OwnRequests(ledger, engine.name, lambda: engine.run, inference.settlement.settle)


def _soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


def build_admission(settings: Settings) -> Admission:
    """As many requests at a time, and waiting, as the settings say."""
    return Admission(settings.max_in_flight, max_waiting=settings.max_queue, max_wait_s=settings.queue_timeout_s)


def build_pool(
    setup: Setup, registry: Registry, store: Store, metrics: Metrics, suspects: PoisonRequests, loads: AdapterLoads
) -> EnginePool:
    """One engine per URL, each with its client, loader and supervisor."""
    leases = AdapterFileLocks(store.root)
    names = engine_names(setup.settings, setup.engine_urls, is_managed=setup.spec is not None)
    engines = [
        _build_engine(name, url, setup, registry, store, leases, metrics, suspects, loads)
        for name, url in zip(names, setup.engine_urls, strict=True)
    ]
    return EnginePool(engines, leases, base=setup.settings.served_model_name)


def _build_engine(
    name: str,
    url: str,
    setup: Setup,
    registry: Registry,
    store: Store,
    leases: AdapterFileLocks,
    metrics: Metrics,
    suspects: PoisonRequests,
    loads: AdapterLoads,
) -> Engine:
    """One engine with its client, loader and supervisor."""
    settings = setup.settings
    api_key = settings.engine_api_key.get_secret_value() if settings.engine_api_key is not None else None
    client = EngineClient(
        url,
        connect_timeout_s=settings.connect_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        most_answer_bytes=settings.max_answer_bytes,
        api_key=api_key,
    )
    plan = setup.plan
    loader = AdapterLoader(
        name,
        client,
        store,
        leases,
        metrics.adapters,
        slots=plan.max_loras,
        capacity=plan.max_cpu_loras,
        loaded=loads.recorder(name),
    )
    several = len(setup.engine_urls) > 1
    announce = (lambda line: setup.announce(f"{name} {line}")) if several else setup.announce
    reconciler = Reconciler(loader, registry, settings.data_dir / "engines" / f"{name}.json", announce)
    supervisor = Supervisor(
        name,
        client,
        loader,
        reconciler,
        metrics,
        spec=setup.spec,
        api_key=api_key,
        patience=Patience(start_s=settings.start_timeout_s, hang_s=settings.hang_timeout_s),
        announce=announce,
        died=lambda: suspects.engine_died(name),
    )
    thrash = ThrashMonitor(name, loader.used, metrics.adapters, announce)
    return Engine(name, client, loader, reconciler, thrash, supervisor, suspects)
