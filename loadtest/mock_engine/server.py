"""Running the mock engine: in the foreground, or in a thread of this process for tests and benchmarks."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from loadtest.mock_engine.app import MockApp
from loadtest.mock_engine.engine import MockEngine, MockSettings


@dataclass(frozen=True, slots=True)
class MockServer:
    """A mock engine that answers at `url`; its state can be read and changed through `engine`."""

    url: str
    engine: MockEngine


@contextmanager
def serving(settings: MockSettings | None = None) -> Iterator[MockServer]:
    """Serve a mock engine on a free loopback port for the length of the `with` block."""
    engine = MockEngine(settings or MockSettings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(MockApp(engine), lifespan="off", log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        # The listener takes connections from here on, so nobody has to wait for the thread.
        thread.start()
        try:
            yield MockServer(f"http://127.0.0.1:{listener.getsockname()[1]}", engine)
        finally:
            server.should_exit = True
            thread.join()


def serve(engine: MockEngine, host: str, port: int) -> None:
    """Serve a mock engine until interrupted."""
    uvicorn.run(MockApp(engine), host=host, port=port, lifespan="off", access_log=False)
