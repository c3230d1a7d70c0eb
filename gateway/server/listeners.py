"""Listeners: the addresses that the gateway serves, and the server with an optional second, admin-only address."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import uvicorn

LISTENER = "turntable.listener"
"""Key of `scope["extensions"]` that holds the `Listener` of a request."""


class Listener(StrEnum):
    """`WHOLE` serves every path; `PUBLIC` leaves out the admin paths, which have a listener of their own."""

    WHOLE = "whole"
    PUBLIC = "public"


@dataclass(frozen=True)
class AdminListener:
    """Listener for operators: socket, protocol class, and TLS context (None: plain HTTP)."""

    socket: socket.socket
    protocol: Callable[..., asyncio.Protocol]
    tls: ssl.SSLContext | None


class GatewayServer(uvicorn.Server):
    """uvicorn's server with an optional admin listener, which opens and closes with the public one."""

    def __init__(self, config: uvicorn.Config, admin: AdminListener | None) -> None:
        super().__init__(config)
        self._admin = admin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start both listeners."""
        await super().startup(sockets)
        if self._admin is None or self.should_exit:
            return
        protocol = partial(
            self._admin.protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_server(protocol, sock=self._admin.socket, ssl=self._admin.tls))
