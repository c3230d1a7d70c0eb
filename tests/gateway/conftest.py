"""A gateway in this process, attached to a mock engine: for faults that a real engine cannot be asked for."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.app import Turntable
from gateway.cli.listening import server_config
from gateway.cli.startup import plan_for
from gateway.settings import Settings
from gateway.wiring import Setup
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import MockSettings
from tests.canaries import ADMIN_KEY, leaks
from tests.waiting import wait_until

KEY = ADMIN_KEY


class Attached:
    """A gateway and the engine it is attached to."""

    def __init__(self, url: str, engine: MockServer, data_dir: Path) -> None:
        self.url = url
        self.engine = engine.engine
        self.data_dir = data_dir
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)

    def chat(self, **fields: object) -> httpx.Response:
        """One chat request with defaults for what a test does not care about."""
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]} | fields
        return self.http.post("/v1/chat/completions", json=body)


def gateway_app(
    settings: Settings, *engine_urls: str, given_up: list[str], base_dir: Path | None = None
) -> tuple[Turntable, Settings]:
    """The ASGI app of a gateway, and its settings: promotions need no verdict unless they say so."""
    if "require_verdict" not in settings.model_fields_set:
        settings = settings.model_copy(update={"require_verdict": False})
    plan = plan_for(settings, None, is_cpu=False)
    setup = Setup(
        settings=settings,
        admin_key=KEY,
        engine_urls=engine_urls,
        spec=None,
        base_dir=base_dir,
        announce=lambda _line: None,
        give_up=given_up.append,
        plan=plan,
    )
    return Turntable(setup), settings


@asynccontextmanager
async def in_process_gateway(settings: Settings, *engine_urls: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in this event loop, without a socket of its own; yields a client of it once it is ready."""
    given_up: list[str] = []
    app, settings = gateway_app(settings, *engine_urls, given_up=given_up)
    requests: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, requests.get, answers.put))
    await requests.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    key = {"authorization": f"Bearer {KEY}"}
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=key) as http:
            while (await http.get("/ready")).status_code != httpx.codes.OK:
                await asyncio.to_thread(threading.Event().wait, 0.02)
            yield http
    finally:
        await requests.put({"type": "lifespan.shutdown"})
        await lifespan
    assert not given_up
    assert leaks(settings.data_dir) == []


@contextmanager
def running_gateway(settings: Settings, *engine_urls: str, base_dir: Path | None = None) -> Iterator[str]:
    """Serve a gateway attached to `engine_urls` on a free port; yields its URL once it is ready.

    Promotions need no verdict here unless the settings say so.
    """
    given_up: list[str] = []
    app, settings = gateway_app(settings, *engine_urls, base_dir=base_dir, given_up=given_up)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(server_config(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join()
    assert not given_up
    assert leaks(settings.data_dir) == []


def wait_until_ready(url: str) -> None:
    """Poll /ready until the engine serves."""
    with httpx.Client(base_url=url, timeout=20) as http:
        wait_until(lambda: http.get("/ready").status_code == httpx.codes.OK, poll_s=0.05)


@pytest.fixture(scope="session")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    data_dir = tmp_path_factory.mktemp("attached")
    with (
        serving(MockSettings(tokens=8, itl_ms=5)) as engine,
        running_gateway(Settings(data_dir=data_dir), engine.url) as url,
    ):
        wait_until_ready(url)
        gateway = Attached(url, engine, data_dir)
        yield gateway
        gateway.http.close()
