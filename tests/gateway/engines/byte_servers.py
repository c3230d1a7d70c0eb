"""Servers that answer byte by byte, and a connection pool to one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.engines.http import ConnectionPool

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """The head and body of the next request; empty when the client closed."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


class Server:
    """Answers every request with `pieces`, one write each, and keeps the connection unless told to close it."""

    def __init__(self, *pieces: bytes, close: bool = False) -> None:
        self._pieces = pieces
        self._close = close
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await request_of(reader))
                for piece in self._pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        finally:
            writer.close()


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that hands every connection to `handler`."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def pool_to(
    handler: Handler, *, idle_timeout_s: float = 20, max_answer_bytes: int = 64 << 20
) -> AsyncIterator[ConnectionPool]:
    async with listening(handler) as url:
        pool = ConnectionPool(
            f"{url}/engine/", connect_timeout_s=5, idle_timeout_s=idle_timeout_s, max_answer_bytes=max_answer_bytes
        )
        try:
            yield pool
        finally:
            pool.close()
