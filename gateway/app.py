"""The composition root: builds every object once, wires them, and is the only place that knows them all."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from adapters import BaseModel, Registry, Store
from gateway.auth import Caller, Keyring
from gateway.chat import Chat
from gateway.database import open_database
from gateway.engine.client import CHAT_COMPLETIONS, EngineClient
from gateway.engine.loader import AdapterLoader
from gateway.engine.process import EngineSpec
from gateway.engine.supervisor import EngineState, Supervisor
from gateway.engine_runs import EngineRuns
from gateway.errors import GatewayError, InternalError, InvalidRequestError, MethodNotAllowedError, UnknownUrlError
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.publish import Publisher
from gateway.resolve import Resolver
from gateway.routes.adapters import adapter_routes
from gateway.routes.chat import ChatEndpoint, Receive, Scope, Send
from gateway.routes.health import health_routes
from gateway.routes.models import model_routes
from gateway.routes.usage import usage_routes
from gateway.settings import Settings

log = logging.getLogger(__name__)
_HEARTBEAT_S = 1.0


@dataclass(frozen=True)
class Setup:
    """What the command line found out before the app is built.

    `spec` starts a managed engine (None attaches to `engine_url`); `base_dir` holds the base's files when they are at
    hand; `announce` takes a line for the operator; `give_up` ends the server because the engine cannot start.
    """

    settings: Settings
    admin_key: str
    engine_url: str
    spec: EngineSpec | None
    base_dir: Path | None
    announce: Callable[[str], None]
    give_up: Callable[[str], None]


class Turntable:
    """The ASGI application: chat goes straight to its endpoint, everything else through FastAPI."""

    def __init__(self, setup: Setup) -> None:
        settings = setup.settings
        self._give_up = setup.give_up
        database = open_database(settings.database)
        metrics = Metrics()
        registry, store = Registry(database), Store(settings.adapters_dir)
        self._ledger = Ledger(database)
        self._runs = EngineRuns(database, settings.engine_usd_per_hour)
        self._client = EngineClient(
            setup.engine_url, connect_timeout_s=settings.connect_timeout_s, idle_timeout_s=settings.idle_timeout_s
        )
        loader = AdapterLoader(self._client, store, metrics)
        self._supervisor = Supervisor(
            self._client,
            loader,
            registry,
            metrics,
            spec=setup.spec,
            start_timeout_s=settings.start_timeout_s,
            announce=setup.announce,
        )
        keyring = Keyring(setup.admin_key)
        resolver = Resolver(registry, settings.served_model_name)
        chat = Chat(resolver, self._ledger, loader, self._supervisor, self._client, metrics)
        self._chat = ChatEndpoint(chat, keyring, max_body_bytes=settings.max_body_bytes)
        publisher = Publisher(
            registry,
            store,
            loader,
            self._supervisor,
            base=BaseModel.read(setup.base_dir) if setup.base_dir else None,
            base_name=settings.served_model_name,
            max_rank=settings.max_lora_rank,
            max_bytes=settings.max_upload_bytes,
        )

        def authenticated(request: Request) -> Caller:
            return keyring.authenticate(request.scope["headers"])

        self._rest = FastAPI(title="Turntable", lifespan=self._lifespan)
        base = settings.served_model_name
        for routes in (
            model_routes(registry, resolver, base, authenticated),
            adapter_routes(publisher, registry, store, authenticated),
            usage_routes(self._ledger, self._runs, base=base, admin=authenticated),
            health_routes(self._supervisor, loader, metrics, engine_url=setup.engine_url, admin=authenticated),
        ):
            self._rest.include_router(routes)
        add_error_handlers(self._rest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI scope."""
        if scope["type"] == "http" and scope["path"] == CHAT_COMPLETIONS:
            await self._chat(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        async with self._client:
            tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._count_uptime())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.to_thread(self._ledger.close)

    async def _supervise(self) -> None:
        try:
            await self._supervisor.run()
        except Exception as error:
            log.debug("supervisor ended", exc_info=True)
            self._give_up(str(error))

    async def _count_uptime(self) -> None:
        while True:
            if self._supervisor.status.state is EngineState.READY:
                await asyncio.to_thread(self._runs.heartbeat)
            else:
                self._runs.end()
            await asyncio.sleep(_HEARTBEAT_S)


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
