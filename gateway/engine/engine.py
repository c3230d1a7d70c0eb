"""One engine with everything that belongs to it: client, loader, supervisor, circuit, and what runs on it now."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from gateway.engine.breaker import Breaker
from gateway.engine.client import EngineClient, EngineResponse
from gateway.engine.loader import AdapterLoader
from gateway.engine.supervisor import EngineState, Supervisor
from gateway.errors import EngineBrokeOffError, EngineUnreachableError


@dataclass(eq=False)
class Engine:
    """One vLLM process as the pool sees it; `running` counts our requests on it, waiting ones included."""

    name: str
    client: EngineClient
    loader: AdapterLoader
    supervisor: Supervisor
    breaker: Breaker = field(default_factory=Breaker)
    running: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether the engine is up with everything live loaded."""
        return self.supervisor.status.state is EngineState.READY

    @property
    def is_available(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.is_ready and self.breaker.allows

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[EngineResponse]:
        """Send a request and tell the circuit how the connection fared."""
        self.breaker.begin()
        try:
            async with self.client.post(path, body, headers) as response:
                self.breaker.succeeded()
                yield response
        except (EngineUnreachableError, EngineBrokeOffError):
            self.breaker.failed()
            raise
        finally:
            self.breaker.abandoned()
