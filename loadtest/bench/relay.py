"""Lower bound of the side-by-side benchmark: relay bytes from socket to socket, unread, on one Python event loop.

`python -m loadtest.bench.relay PORT ENGINE_PORT` costs as little as a gateway in Python can.
"""

import asyncio
import sys
from functools import partial
from typing import cast

import uvloop


class Downstream(asyncio.Protocol):
    """A client's connection, tied to one of its own towards the engine."""

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port
        self._early: list[bytes] | None = []
        self._upstream: asyncio.Transport | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(
            loop.create_connection(partial(Upstream, self), "127.0.0.1", self._engine_port)
        )

    def connected(self, upstream: asyncio.Transport) -> None:
        """The engine's side is there."""
        self._upstream = upstream
        upstream.write(b"".join(self._early or ()))

    def data_received(self, data: bytes) -> None:
        if self._upstream is not None:
            self._upstream.write(data)
        elif self._early is not None:
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


class Upstream(asyncio.Protocol):
    """The connection towards the engine."""

    def __init__(self, downstream: Downstream) -> None:
        self._downstream = downstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._downstream.connected(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._downstream.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._downstream.transport.close()


async def serve(port: int, engine_port: int) -> None:
    """Relay until stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Downstream, engine_port), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
