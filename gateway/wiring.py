"""Wiring: builds every long-lived object of a gateway, once and by keyword, and connects them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapters import AllowedSources, Registry, Store
from gateway.auth.service import open_keys
from gateway.background import Background
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.plan import UNPRICED, EnginePrices
from gateway.costs.refresh import CostGauges, CostRefresher
from gateway.costs.report import CostReports
from gateway.costs.request_price import RequestPrices
from gateway.database import open_database
from gateway.engines.adapter_loader import AdapterLoader
from gateway.engines.adapter_reconciler import Reconciler
from gateway.engines.client import EngineClient
from gateway.engines.engine import Engine
from gateway.engines.file_locks import AdapterFileLocks
from gateway.engines.pool import EnginePool
from gateway.engines.process import EngineSpec, engine_names
from gateway.engines.residency import ThrashMonitor
from gateway.engines.slot_plan import SlotPlan
from gateway.engines.supervisor import EngineTimeouts, Supervisor
from gateway.inference.admission import Admission
from gateway.inference.cache_salts import CacheSalts
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
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.service import Metering
from gateway.metering.usage_summary import UsageSummary
from gateway.metrics import Metrics
from gateway.quality.service import build_quality_monitoring
from gateway.quota.service import build_quota
from gateway.releases.canary import CanaryMonitor
from gateway.releases.promotion_gate import EvidenceRecorder, build_gate
from gateway.releases.publish import Publisher
from gateway.releases.rollout import Rollout
from gateway.releases.shadow import Shadows
from gateway.server.request_body import BodyReader
from gateway.settings import Settings
from gateway.tracing import Telemetry


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Inputs of the app, determined by the command line.

    With `spec`, the gateway starts a managed engine at the only URL of `engine_urls`; without it, it attaches to all of
    them. `base_dir` has the base model's files, if they are local. `announce` prints a line for the operator, `give_up`
    stops the server when its engine cannot start. `plan` is the slot plan of an engine.
    """

    settings: Settings
    admin_key: str
    engine_urls: Sequence[str]
    spec: EngineSpec | None
    base_dir: Path | None
    announce: Callable[[str], None]
    give_up: Callable[[str], None]
    plan: SlotPlan


class Services:
    """The long-lived objects of one gateway, built in the order in which they need each other."""

    def __init__(self, setup: Setup) -> None:
        """Open the database and the ledger, and build everything on top; nothing runs yet."""
        self._build_storage(setup)
        self._build_costs(setup)
        self._build_engines(setup)
        self._build_pipeline(setup)
        self._build_metering(setup.settings)
        self._build_releases(setup)
        self._connect(setup.settings)

    def _build_storage(self, setup: Setup) -> None:
        settings = setup.settings
        self.metrics = Metrics()
        self.background = Background(self.metrics.registry)
        self.database = open_database(settings.database)
        self.keys = open_keys(settings, self.database, setup.admin_key)
        self.registry = Registry(self.database)
        self.store = Store(settings.adapters_dir)
        self.ledger = Ledger(self.database, settings.ledger_dir, most_bytes=settings.max_journal_bytes, soon=_call_soon)
        self.refusals = RefusalLog(settings.data_dir / "refusals")

    def _build_costs(self, setup: Setup) -> None:
        settings = setup.settings
        engine_prices = EnginePrices(settings.data_dir, settings.engine_usd_per_hour)
        names = engine_names(settings, setup.engine_urls, is_managed=setup.spec is not None)
        stated_price = partial(engine_prices.highest, names)
        self.usage = UsageSummary(self.database, self.ledger.flush)
        self.engine_runs = EngineRuns(self.database, engine_prices.nano_usd_per_hour)
        self.request_prices = RequestPrices()
        self.cost_reports = CostReports(
            self.usage,
            self.engine_runs,
            CostEvidenceStore(self.database),
            settings.data_dir,
            base=settings.served_model_name,
        )
        self.costs = CostRefresher(
            self.cost_reports, CostGauges(self.metrics.registry), self.request_prices, stated_price
        )
        self.costs.begin()
        if stated_price() is None:
            setup.announce(UNPRICED)

    def _build_engines(self, setup: Setup) -> None:
        settings = setup.settings
        self.poison = PoisonRequests(settings.suspect_s)
        self._counters = EngineCounterStore(self.database, self.ledger.run)
        self._counter_reader = EngineCounterReader(self._counters)
        file_locks = AdapterFileLocks(self.store.root)
        names = engine_names(settings, setup.engine_urls, is_managed=setup.spec is not None)
        engines = [
            self._build_engine(name, url, setup, file_locks) for name, url in zip(names, setup.engine_urls, strict=True)
        ]
        self.pool = EnginePool(engines, file_locks, base=settings.served_model_name)

    def _build_engine(self, name: str, url: str, setup: Setup, file_locks: AdapterFileLocks) -> Engine:
        settings, plan, metrics = setup.settings, setup.plan, self.metrics
        api_key = None if settings.engine_api_key is None else settings.engine_api_key.get_secret_value()
        client = EngineClient(
            url,
            connect_timeout_s=settings.connect_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_answer_bytes=settings.max_answer_bytes,
            api_key=api_key,
        )
        loader = AdapterLoader(
            name=name,
            client=client,
            store=self.store,
            file_locks=file_locks,
            metrics=metrics.adapters,
            slots=plan.max_loras,
            capacity=plan.max_cpu_loras,
            on_load=AdapterLoads(self.database).recorder(name),
        )
        announce = setup.announce if len(setup.engine_urls) == 1 else lambda line: setup.announce(f"{name} {line}")
        memory = settings.data_dir / "engines" / f"{name}.json"
        reconciler = Reconciler(loader=loader, registry=self.registry, memory=memory, announce=announce)
        supervisor = Supervisor(
            name=name,
            client=client,
            loader=loader,
            reconciler=reconciler,
            metrics=metrics,
            spec=setup.spec,
            api_key=api_key,
            timeouts=EngineTimeouts(start_s=settings.start_timeout_s, hang_s=settings.hang_timeout_s),
            announce=announce,
            on_death=partial(self.poison.engine_died, name),
            read_run=partial(self._counter_reader.read, name, client),
        )
        return Engine(
            name=name,
            client=client,
            loader=loader,
            reconciler=reconciler,
            thrash=ThrashMonitor(name, loader.used, metrics.adapters, announce),
            supervisor=supervisor,
            poison=self.poison,
        )

    def _build_pipeline(self, setup: Setup) -> None:
        settings = setup.settings
        self.admission = Admission(
            settings.max_in_flight, max_waiting=settings.max_queue, max_wait_s=settings.queue_timeout_s
        )
        self.resolver = Resolver(self.registry, settings.served_model_name)
        self.quota = build_quota(self.database, self.ledger, self.pool.engines, self.metrics.registry, self.background)
        self.gate = build_gate(settings, setup.base_dir)
        self.quality = build_quality_monitoring(
            settings, self.database, self.registry, self.gate.served, self.ledger.flush, self.metrics.registry
        )
        self.settlement = Settlement(
            self.ledger, self.pool, self.request_prices, self.metrics, self.background.group("settlement")
        )
        self.pipeline = InferencePipeline(
            keyring=self.keys.keyring,
            bodies=BodyReader(max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s),
            resolver=self.resolver,
            samples=self.quality.sampler.should_sample,
            poison=self.poison,
            quota=self.quota.manager,
            prices=self.request_prices,
            admission=self.admission,
            salts=CacheSalts(self.keys.digest, is_shared=settings.share_prefix_cache),
            settlement=self.settlement,
            pool=self.pool,
            timeouts=Timeouts(settings.first_byte_timeout_s, settings.total_timeout_s),
            base=settings.served_model_name,
            max_sequences=settings.max_sequences,
        )

    def _build_metering(self, settings: Settings) -> None:
        database, ledger = self.database, self.ledger
        reconciliation = Reconciliation(database, self._counters, ledger.flush)
        self.reconcile_monitor = ReconcileMonitor(
            self.pool,
            reader=self._counter_reader,
            counters=self._counters,
            reconciliation=reconciliation,
            gauges=ReconcileGauges(self.metrics.registry),
            recovery=Recovery(database, self.pool, ledger.gateway, self.request_prices),
        )
        self.metering = Metering(
            database=database,
            ledger=ledger,
            summary=self.usage,
            retention=Retention(database, self.usage, keep_pruned_totals),
            erasure=TenantErasure(database, ledger.flush),
            reconciliation=reconciliation,
            monitor=self.reconcile_monitor,
            retention_days=settings.ledger_retention_days,
        )

    def _build_releases(self, setup: Setup) -> None:
        settings, group = setup.settings, self.background.group
        self.canaries = CanaryMonitor(self.registry, self.metrics.traffic, group("canary_rollbacks"))
        self.shadows = Shadows(
            registry=self.registry,
            inference=self.pipeline,
            admission=self.admission,
            metrics=self.metrics.traffic,
            running=group("shadows"),
            max_running=settings.max_shadowed,
        )
        self.recorder = EvidenceRecorder(self.registry, self.gate)
        self.rollout = Rollout(
            registry=self.registry,
            store=self.store,
            pool=self.pool,
            gate=self.gate,
            unloads=group("unloads"),
            drain_s=settings.drain_timeout_s,
        )
        self.publisher = Publisher(
            registry=self.registry,
            store=self.store,
            pool=self.pool,
            sources=AllowedSources(settings.adapter_sources, settings.hub_endpoint, settings.s3_endpoint),
            recorder=self.recorder,
            base=self.gate.served.files,
            base_name=settings.served_model_name,
            max_rank=setup.plan.max_lora_rank,
            max_bytes=settings.max_upload_bytes,
        )

    def _connect(self, settings: Settings) -> None:
        """Register what could not be passed to a constructor, because both sides need each other."""
        self.settlement.observe(self.canaries.ended, self.shadows.ended, self.quality.sampler.ended)
        self.telemetry = Telemetry(settings.otlp_endpoint) if settings.otlp_endpoint else None
        if self.telemetry is not None:
            self.settlement.observe(self.telemetry.record)
        for engine in self.pool.engines:
            run = partial(_run_of, engine)
            engine.client.record_own_requests(OwnRequests(self.ledger, engine.name, run, self.settlement.settle))
        self._connect_gauges()

    def _connect_gauges(self) -> None:
        """Have gauges read their values when Prometheus scrapes; each reads one number, which is safe in any thread."""
        metrics, ledger = self.metrics, self.ledger
        metrics.waiting.set_function(lambda: self.admission.waiting)
        metrics.poison_requests.set_function(lambda: len(self.poison))
        metrics.ledger.unsettled.set_function(lambda: ledger.unsettled)
        metrics.ledger.rejected_lines.set_function(lambda: ledger.rejected)
        metrics.ledger.journal_bytes.set_function(lambda: ledger.waiting_bytes)
        for engine in self.pool.engines:
            metrics.in_flight.labels(engine.name).set_function(partial(_running, engine))
            metrics.traffic.waiting_for_slot.labels(engine.name).set_function(partial(_waiting, engine))
            metrics.adapters.resident.labels(engine.name).set_function(partial(_resident, engine))


def _run_of(engine: Engine) -> str | None:
    return engine.run


def _running(engine: Engine) -> int:
    return engine.running


def _waiting(engine: Engine) -> int:
    return engine.scheduler.waiting


def _resident(engine: Engine) -> int:
    return len(engine.loader.resident)


def _call_soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)
