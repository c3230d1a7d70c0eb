"""Doors: the addresses that a gateway listens on, and what a connection to each may ask for.

The server behind one door or two: applications at the public address, operators at one of their own.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import uvicorn

LISTENER = "turntable.door"
"""Key of `scope["extensions"]` under which it says through which `Door` a request came."""


class Listener(StrEnum):
    """`WHOLE` serves everything; `PUBLIC` what applications need, while operators have a door of their own."""

    WHOLE = "whole"
    PUBLIC = "public"


@dataclass(frozen=True)
class AdminListener:
    """The operators' own address: where it listens, its protocol, and its TLS (None speaks plain HTTP)."""

    listener: socket.socket
    protocol: Callable[..., asyncio.Protocol]
    tls: ssl.SSLContext | None


class GatewayServer(uvicorn.Server):
    """uvicorn's server with a second door, which opens and closes with the first."""

    def __init__(self, config: uvicorn.Config, admin: AdminListener | None) -> None:
        super().__init__(config)
        self._admin = admin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at both doors."""
        await super().startup(sockets)
        if self._admin is None or self.should_exit:
            return
        protocol = partial(
            self._admin.protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        loop, door = asyncio.get_running_loop(), self._admin
        self.servers.append(await loop.create_server(protocol, sock=door.listener, ssl=door.tls))
