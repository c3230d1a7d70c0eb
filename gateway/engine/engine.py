"""One engine with everything that belongs to it: client, loader, supervisor, circuit, and what runs on it now."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from gateway.engine.breaker import Breaker
from gateway.engine.client import EngineClient
from gateway.engine.http import Connection
from gateway.engine.loader import AdapterLoader
from gateway.engine.supervisor import EngineState, Supervisor
from gateway.engine.suspects import Suspects
from gateway.errors import EngineBrokeOffError, EngineUnreachableError

_NEWEST = 0.1  # weight of the newest answer in a running mean


@dataclass(eq=False)
class Engine:
    """One vLLM process as the pool sees it; `running` counts our requests on it, waiting ones included."""

    name: str
    client: EngineClient
    loader: AdapterLoader
    supervisor: Supervisor
    suspects: Suspects
    breaker: Breaker = field(default_factory=Breaker)
    running: int = 0
    s_per_token: float = 0.0
    """How long a generated token lately took, waiting and prompt included; 0 until an answer was seen."""

    def learn_pace(self, seconds: float, tokens: int) -> None:
        """Take a finished answer into the running mean of `s_per_token`."""
        if tokens:
            newest = seconds / tokens
            self.s_per_token += (newest - self.s_per_token) * (_NEWEST if self.s_per_token else 1)

    @property
    def is_ready(self) -> bool:
        """Whether the engine is up with everything live loaded."""
        return self.supervisor.status.state is EngineState.READY

    @property
    def is_available(self) -> bool:
        """Whether a request may be sent to it now."""
        return self.is_ready and self.breaker.allows

    @contextlib.asynccontextmanager
    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, fingerprint: int
    ) -> AsyncIterator[Connection]:
        """Send a request; the circuit learns how the connection fared, and what is running if the engine dies."""
        self.breaker.begin()
        try:
            with self.suspects.watch(self.name, fingerprint):
                async with self.client.post(path, body, headers) as connection:
                    self.breaker.succeeded()
                    yield connection
        except (EngineUnreachableError, EngineBrokeOffError):
            self.breaker.failed()
            raise
        finally:
            self.breaker.abandoned()
