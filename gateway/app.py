"""The gateway as an ASGI application: its routes, its periodic tasks, and what happens at start and shutdown."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from fastapi import FastAPI

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
from gateway.background import Periodic
from gateway.database import database_file
from gateway.engines.adapter_reconciler import PERIOD_S
from gateway.engines.engine import Engine
from gateway.inference.endpoint import InferenceEndpoint, Scope
from gateway.inference.formats import APIS
from gateway.metering.refusal_log import WRITE_EVERY_S
from gateway.metering.request_history import RequestHistory
from gateway.server.cycle import Receive, Send
from gateway.server.middleware import middleware, with_middleware
from gateway.server.request_id import RequestIds
from gateway.threads import REPORTS, bound_route_threads, join_all, unfinished_work
from gateway.wiring import Services, Setup

log = logging.getLogger(__name__)
_CLOSE_S = 20.0
"""Longer than any part takes to close that does not hang."""
_SECOND_S, _MINUTE_S, _HOUR_S = 1.0, 60.0, 3600.0


class Turntable:
    """The ASGI application: inference goes straight to its endpoint, everything else through FastAPI."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._services = services = Services(setup)
        settings, ids = setup.settings, RequestIds()
        endpoint = InferenceEndpoint(services.pipeline, ids, services.refusals, keep_alive_s=settings.keep_alive_s)
        stack = middleware(settings=settings, ids=ids, paths=APIS, inference=endpoint)
        self._app = with_middleware(self._build_api(), stack)

    @property
    def unfinished(self) -> list[str]:
        """Names of the work that still runs in threads; after the shutdown, what hangs."""
        return [*unfinished_work(), *self._services.background.unfinished]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)

    def _periodic(self) -> Iterator[Periodic]:
        """Yield all periodic tasks of the gateway; `gateway.background` lists what else runs beside requests."""
        here, settings = self._services, self._setup.settings
        # What an operator has revoked or rolled back would still be served without the first two.
        yield Periodic("keys", _SECOND_S, here.keys.refresh, in_thread=True, is_essential=True)
        yield Periodic("registry", _SECOND_S, here.registry.refresh, in_thread=True, is_essential=True)
        yield Periodic("budgets", _SECOND_S, here.quota.renew_budgets)
        if here.quota.sharing is not None:
            yield Periodic("limits", _SECOND_S, here.quota.sharing.exchange)
        yield Periodic("canaries", _SECOND_S, here.canaries.check)
        yield Periodic("database_file", _SECOND_S, database_file(here.database).check, in_thread=True)
        # The ledger: heartbeat of this gateway, usage of running requests, rows that a full disk did not take.
        yield Periodic("ledger", _SECOND_S, here.ledger.heartbeat, in_thread=True)
        yield Periodic("progress", _SECOND_S, here.settlement.note_progress)
        yield Periodic("journal", _SECOND_S, here.ledger.retry)
        yield Periodic("refusals", WRITE_EVERY_S, here.refusals.flush, in_thread=True)
        if settings.reconcile_every_s:
            yield Periodic("reconcile", settings.reconcile_every_s, here.reconcile_monitor.run)
        if settings.ledger_retention_days:
            yield Periodic("retention", _HOUR_S, here.metering.prune_old, in_thread=True)
        # Costs
        yield Periodic("engine_runs", _SECOND_S, self._record_uptime, in_thread=True)
        yield Periodic("costs", here.costs.pause_s, here.costs.refresh, in_thread=True)
        # Adapters in the engines: loaded, pinned and unloaded as the registry wants; slots and working set.
        for engine in here.pool.engines:
            yield Periodic(f"adapters_{engine.name}", PERIOD_S, engine.supervisor.reconcile)
        yield Periodic("working_sets", _SECOND_S, self._check_working_sets)
        # Quality of answers
        yield Periodic("answers", 5 * _SECOND_S, here.quality.sampler.flush, in_thread=True)
        yield Periodic("reviews", _MINUTE_S, here.quality.review, in_thread=True)
        yield Periodic("answer_counts", _MINUTE_S, here.quality.profiles.prune, in_thread=True)

    def _record_uptime(self) -> None:
        self._services.engine_runs.heartbeat([engine.name for engine in self._services.pool.ready])

    def _check_working_sets(self) -> None:
        for engine in self._services.pool.engines:
            engine.thrash.check(engine.loader.slots)
            engine.scheduler.slots = engine.known_slots

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start background work; at shutdown, close everything in reverse order, also after an error of one part."""
        here = self._services
        bound_route_threads()
        async with contextlib.AsyncExitStack() as closing:
            closing.callback(here.database.dispose)
            closing.push_async_callback(join_all)  # work of cancelled callers uses the database
            if here.telemetry is not None:
                closing.push_async_callback(_within, REPORTS.run, here.telemetry.close)
            for close in (here.quota.close, here.ledger.close, here.refusals.flush):
                closing.push_async_callback(_within, REPORTS.run, close)
            closing.callback(here.pool.file_locks.close)
            for engine in here.pool.engines:
                closing.callback(engine.client.close)
            for engine in here.pool.engines:
                closing.push_async_callback(_cancelled, asyncio.create_task(self._supervise(engine)))
            # Closed before a managed engine is stopped: settlement asks the engines for the tokens of cut-off requests.
            for part in (here.quality, here.settlement, here.rollout, here.shadows, here.canaries, here.background):
                closing.push_async_callback(_within, part.close)
            here.background.start(self._periodic())
            yield

    async def _supervise(self, engine: Engine) -> None:
        try:
            await engine.supervisor.run()
        except Exception as error:
            log.debug("supervisor of %s ended", engine.name, exc_info=True)
            self._setup.give_up(str(error))

    def _build_api(self) -> FastAPI:
        here, settings, base = self._services, self._setup.settings, self._setup.settings.served_model_name
        guards, pool, registry, quality = Guards(here.keys.keyring), here.pool, here.registry, here.quality
        documents = AdapterDocuments(registry, pool, here.publisher, here.gate)
        services = AdapterServices(
            publisher=here.publisher,
            rollout=here.rollout,
            registry=registry,
            store=here.store,
            documents=documents,
            canaries=here.canaries,
            shadows=here.shadows,
            reviewer=quality.reviewer,
        )
        history = RequestHistory(here.database, here.refusals, here.ledger.flush)
        scraper, file = None if settings.public_metrics else guards.metrics, database_file(here.database)
        erase_refusals, erase_feedback = here.refusals.erase_tenant, quality.feedback.erase_tenant
        api = FastAPI(title="Turntable", lifespan=self._lifespan, docs_url=None, redoc_url=None)
        for routes in (
            model_routes(registry, here.resolver, base, guards.inference),
            adapter_routes(services, guards.admin),
            rollout_routes(here.rollout, documents, guards.admin),
            gate_routes(here.recorder, here.gate, documents, guards.admin),
            vllm_lora_routes(here.publisher, here.rollout, registry, base, guards.admin),
            usage_routes(
                here.metering, base=base, usage=guards.usage, admin=guards.admin, erase_refusals=erase_refusals
            ),
            request_routes(history, guards.admin),
            cost_routes(here.cost_reports, here.costs, usage=guards.usage, admin=guards.admin),
            health_routes(pool, here.metrics, here.background, file, scraper),
            engine_routes(pool, self._setup.plan, admin=guards.admin),
            key_routes(here.keys, here.quota.statuses, guards.admin, erase_feedback),
            feedback_routes(quality.feedback, guards.inference, guards.admin),
            watching_routes(quality, guards.admin),
        ):
            api.include_router(routes)
        add_docs(api)
        add_error_handlers(api)
        return api


async def _within(close: Callable[..., Awaitable[object]], *given: Callable[..., object]) -> None:
    """Close one part of the gateway; what hangs is given up and logged, so that the other parts are closed."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await close(*given)
    except TimeoutError:
        part = (*given, close)[0].__qualname__
        log.error("shutdown: %s did not end within %g s and was given up", part, _CLOSE_S)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
