"""The composition root: builds every object once, wires them, and is the only place that knows them all."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from adapters import BaseModel, Registry, Store
from gateway.admission import Admission
from gateway.apis import APIS
from gateway.auth import Caller, Keyring
from gateway.database import open_database
from gateway.engine.client import EngineClient
from gateway.engine.engine import Engine
from gateway.engine.loader import AdapterLoader
from gateway.engine.pool import EnginePool
from gateway.engine.process import EngineSpec
from gateway.engine.supervisor import Supervisor
from gateway.engine.suspects import Suspects
from gateway.engine_runs import EngineRuns
from gateway.errors import GatewayError, InternalError, InvalidRequestError, MethodNotAllowedError, UnknownUrlError
from gateway.inference import Inference, Timeouts
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.publish import Publisher
from gateway.resolve import Resolver
from gateway.routes.adapters import adapter_routes
from gateway.routes.docs import add_docs
from gateway.routes.health import health_routes
from gateway.routes.inference import InferenceEndpoint, Receive, Scope, Send
from gateway.routes.models import model_routes
from gateway.routes.request_id import RequestIds, identified
from gateway.routes.usage import usage_routes
from gateway.settings import Settings
from gateway.telemetry import Telemetry

log = logging.getLogger(__name__)
_HEARTBEAT_S = 1.0


@dataclass(frozen=True)
class Setup:
    """What the command line found out before the app is built.

    `spec` starts a managed engine at the only one of `engine_urls` (None attaches to them); `base_dir` holds the
    base's files when they are at hand; `announce` takes a line for the operator; `give_up` ends the server because the
    engine cannot start.
    """

    settings: Settings
    admin_key: str
    engine_urls: Sequence[str]
    spec: EngineSpec | None
    base_dir: Path | None
    announce: Callable[[str], None]
    give_up: Callable[[str], None]


class Turntable:
    """The ASGI application: inference goes straight to its endpoint, everything else through FastAPI."""

    def __init__(self, setup: Setup) -> None:
        settings, base = setup.settings, setup.settings.served_model_name
        self._give_up = setup.give_up
        database = open_database(settings.database)
        self._metrics = metrics = Metrics()
        registry, store = Registry(database), Store(settings.adapters_dir)
        self._ledger = Ledger(database)
        self._runs = EngineRuns(database, settings.engine_usd_per_hour)
        self._admission = Admission(
            settings.max_in_flight, max_waiting=settings.max_queue, max_wait_s=settings.queue_timeout_s
        )
        self._suspects = Suspects(settings.suspect_s)
        self._pool = build_pool(setup, registry, store, metrics, self._suspects)
        keyring, ids = Keyring(setup.admin_key), RequestIds()
        resolver = Resolver(registry, base)
        self._telemetry = Telemetry(settings.otlp_endpoint) if settings.otlp_endpoint else None
        inference = Inference(
            self._admission,
            self._suspects,
            self._ledger,
            self._pool,
            metrics,
            Timeouts(settings.first_byte_timeout_s, settings.total_timeout_s),
            ended=self._telemetry.record if self._telemetry else None,
        )
        self._inference = InferenceEndpoint(
            inference,
            keyring,
            resolver,
            ids,
            base=base,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
            keep_alive_s=settings.keep_alive_s,
        )
        self._rest = identified(self._build_rest(setup, registry, store, keyring, resolver), ids)
        self._entrance = with_cors(self._dispatch, settings.cors_origins)

    def _build_rest(
        self, setup: Setup, registry: Registry, store: Store, keyring: Keyring, resolver: Resolver
    ) -> FastAPI:
        settings, base = setup.settings, setup.settings.served_model_name
        publisher = Publisher(
            registry,
            store,
            self._pool,
            base=BaseModel.read(setup.base_dir) if setup.base_dir else None,
            base_name=base,
            max_rank=settings.max_lora_rank,
            max_bytes=settings.max_upload_bytes,
        )

        def authenticated(request: Request) -> Caller:
            return keyring.authenticate(dict(request.scope["headers"]))

        rest = FastAPI(title="Turntable", lifespan=self._lifespan, docs_url=None, redoc_url=None)
        for routes in (
            model_routes(registry, resolver, base, authenticated),
            adapter_routes(publisher, registry, store, authenticated),
            usage_routes(self._ledger, self._runs, base=base, admin=authenticated),
            health_routes(self._pool, self._metrics, admin=authenticated),
        ):
            rest.include_router(routes)
        add_docs(rest)
        add_error_handlers(rest)
        return rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._entrance(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in APIS:
            await self._inference(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._supervise(engine)) for engine in self._pool.engines]
        tasks.append(asyncio.create_task(self._beat()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for engine in self._pool.engines:
                engine.client.close()
            await asyncio.to_thread(self._ledger.close)
            if self._telemetry is not None:
                await asyncio.to_thread(self._telemetry.close)

    async def _supervise(self, engine: Engine) -> None:
        try:
            await engine.supervisor.run()
        except Exception as error:
            log.debug("supervisor of %s ended", engine.name, exc_info=True)
            self._give_up(str(error))

    async def _beat(self) -> None:
        """Once a second: which engines are up, for the bill, and gauges that nobody else keeps."""
        while True:
            self._metrics.waiting.set(self._admission.waiting)
            for engine in self._pool.engines:
                self._metrics.in_flight.labels(engine.name).set(engine.running)
            self._metrics.suspects.set(len(self._suspects))
            await asyncio.to_thread(self._runs.heartbeat, [engine.name for engine in self._pool.ready])
            await asyncio.sleep(_HEARTBEAT_S)


def build_pool(setup: Setup, registry: Registry, store: Store, metrics: Metrics, suspects: Suspects) -> EnginePool:
    """One engine per URL, each with its client, loader and supervisor."""
    return EnginePool(
        [
            _build_engine(f"engine-{number}", url, setup, registry, store, metrics, suspects)
            for number, url in enumerate(setup.engine_urls)
        ]
    )


def _build_engine(
    name: str, url: str, setup: Setup, registry: Registry, store: Store, metrics: Metrics, suspects: Suspects
) -> Engine:
    """One engine with its client, loader and supervisor."""
    settings = setup.settings
    client = EngineClient(url, connect_timeout_s=settings.connect_timeout_s, idle_timeout_s=settings.idle_timeout_s)
    loader = AdapterLoader(client, store, metrics, slots=settings.max_loras)
    prefix = f"{name} " if len(setup.engine_urls) > 1 else ""
    supervisor = Supervisor(
        name,
        client,
        loader,
        registry,
        metrics,
        spec=setup.spec,
        start_timeout_s=settings.start_timeout_s,
        announce=lambda line: setup.announce(prefix + line),
        died=lambda: suspects.engine_died(name),
    )
    return Engine(name, client, loader, supervisor, suspects)


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The app as web pages of these origins may call it; unchanged when there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=["*"], max_age=600
    )


def add_error_handlers(app: FastAPI) -> None:
    """Every error of the FastAPI part in OpenAI's shape."""

    def render(_request: Request, error: Exception) -> Response:
        shown = error if isinstance(error, GatewayError) else InternalError()
        headers = {name.decode(): value.decode() for name, value in shown.headers()}
        return Response(shown.body(), shown.status, headers, "application/json")

    def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == MethodNotAllowedError.status:
            return render(request, MethodNotAllowedError(f"{request.method} is not allowed on {request.url.path}."))
        return render(request, UnknownUrlError(f"There is no {request.method} {request.url.path[:200]} here."))

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = str(first["loc"][-1])
        return render(request, InvalidRequestError(f"'{field}': {first['msg']}.", param=field))

    app.add_exception_handler(GatewayError, render)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, render)
