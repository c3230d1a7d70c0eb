"""HTTP/1.1 towards one engine: kept connections, one request at a time on each, and nothing that a proxy does not need.

A general client spends most of its time on what cannot occur here: redirects, cookies, compression, proxies, encodings.
docs/decisions/0007 has the measurements.
"""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.engine.connection import MOST_ANSWER_BYTES, Connection
from gateway.errors import EngineUnreachableError


class Request:
    """One request on a connection of its own; the context yields it once the answer's headers are here.

    Left before the answer is complete, the connection is closed. Entering raises `EngineUnreachableError` when the
    engine saw nothing of the request, `EngineBrokeOffError`, `EngineTimeoutError`.
    """

    __slots__ = ("_connection", "_message", "_pool")

    def __init__(self, pool: "ConnectionPool", message: bytes) -> None:
        self._pool = pool
        self._message = message
        self._connection: Connection

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        try:
            await self._connection.send(self._message)
        except BaseException:
            self._connection.close()
            raise
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        self._pool.give_back(self._connection)


class ConnectionPool:
    """Connections to the engine at `url`, made when needed and kept for a while."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2].encode()
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._most_answer_bytes = most_answer_bytes
        self._idle: list[Connection] = []
        self.api_key: str | None = None
        """What the engine demands of whoever asks it."""

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> "Request":
        """A request to send by entering it as a context."""
        return Request(self, self._message(method, path, body, headers))

    async def take(self) -> Connection:
        """A connection that nobody uses; raises `EngineUnreachableError` when none can be made."""
        return self._reuse() or await self._connect()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it when it can take none."""
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _reuse(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._idle_timeout_s, self._most_answer_bytes),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachableError from error
        return connection

    def _message(self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None) -> bytes:
        head = b"%s %s HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n" % (
            method.encode(),
            (self._prefix + path).encode(),
            self._authority,
            len(body),
        )
        if body:
            head += b"content-type: application/json\r\n"
        if self.api_key is not None:
            head += b"authorization: Bearer %s\r\n" % self.api_key.encode()
        for name, value in (headers or {}).items():
            head += b"%s: %s\r\n" % (name.encode("latin-1"), value.encode("latin-1"))
        return head + b"\r\n" + body
