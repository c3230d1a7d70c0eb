"""Listeners of `turntable serve`: bind the public and the admin address, with TLS, and configure the server."""

import contextlib
import ipaddress
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from adapters.admin_client import ADDRESS_FILE
from gateway.cli.startup import ServeError
from gateway.server import ConnectionLimits, Listener, strict_protocol
from gateway.server.listeners import AdminListener, GatewayServer
from gateway.server.tls import TlsError, server_context
from gateway.settings import Settings

# Longer than clients and load balancers keep an idle connection (httpx 5 s, nginx and AWS ALB 60 s): whoever closes it
# first must be the client, or its next request may meet a closed connection.
IDLE_CONNECTION_S = 75


@dataclass(frozen=True)
class Listeners:
    """Bound sockets that are not served yet; `admin` is None where one address serves everything."""

    public: socket.socket
    admin: socket.socket | None
    tls: ssl.SSLContext | None

    @property
    def public_url(self) -> str:
        """URL of the gateway for applications."""
        return _url(self.public, self.tls)

    @property
    def admin_url(self) -> str | None:
        """URL of the gateway for operators; None without a separate admin address."""
        return None if self.admin is None else _url(self.admin, self.admin_tls)

    @property
    def admin_tls(self) -> ssl.SSLContext | None:
        """TLS of the admin address; None on loopback, which no certificate names."""
        return None if self.admin is None or _is_loopback(self.admin) else self.tls


@contextlib.contextmanager
def open_listeners(settings: Settings) -> Iterator[Listeners]:
    """Bind the addresses of the settings; raises `ServeError` when one is in use or would serve keys unencrypted."""
    tls = _tls(settings)
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(bind(settings.host, settings.port, "--port"))
        admin = None
        if settings.admin_port is not None:
            admin = stack.enter_context(bind(settings.admin_host, settings.admin_port, "--admin-port"))
        for listener in (public, admin):
            if listener is not None and tls is None and not settings.plain_http and not _is_loopback(listener):
                raise ServeError(
                    f"API keys would be sent unencrypted: {listener.getsockname()[0]} is not a loopback address; "
                    "give --tls-cert and --tls-key, or --plain-http behind a proxy that terminates TLS."
                )
        yield Listeners(public, admin, tls)


@contextlib.contextmanager
def address_kept(data_dir: Path, listeners: Listeners) -> Iterator[None]:
    """Keep a file with the gateway's URLs in the data directory while it runs, for commands on this machine."""
    path = data_dir / ADDRESS_FILE
    public = _reachable(listeners.public_url)
    document = {
        "url": public,
        "admin_url": public if listeners.admin_url is None else _reachable(listeners.admin_url),
        "pid": os.getpid(),
        "started": time.time(),
    }
    with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=f".{ADDRESS_FILE}.", delete=False) as scratch:
        json.dump(document, scratch)
    Path(scratch.name).replace(path)
    try:
        yield
    finally:
        # Another gateway may have written its own file since.
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text(encoding="utf-8")) == document:
                path.unlink()


def _reachable(url: str) -> str:
    """Replace a wildcard address by the loopback address."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def bind(host: str, port: int, option: str) -> socket.socket:
    """Open a listening socket; raises `ServeError` naming the option when the address cannot be used."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(
            f"Port {port} on {host} cannot be used ({error.strerror}); choose another with {option}."
        ) from error
    listener.set_inheritable(False)
    return listener


def server_config(app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """Configure uvicorn: no logs of its own, the strict protocol, a shutdown timeout."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=strict_protocol(_limits(settings), Listener.WHOLE if settings.admin_port is None else Listener.PUBLIC),
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


def server(app: ASGIApp, settings: Settings, listeners: Listeners) -> GatewayServer:
    """Build the gateway's server; run it on `listeners.public`."""
    config = server_config(app, settings, listeners.tls)
    if listeners.admin is None:
        return GatewayServer(config, None)
    protocol = strict_protocol(_limits(settings), Listener.WHOLE)
    return GatewayServer(config, AdminListener(listeners.admin, protocol, listeners.admin_tls))


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(settings.header_timeout_s, settings.max_header_bytes, settings.max_connections)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        if settings.tls_key is not None or settings.tls_client_ca is not None:
            raise ServeError("TLS needs a certificate; give --tls-cert as well.")
        return None
    try:
        return server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except TlsError as error:
        raise ServeError(str(error)) from error


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _url(listener: socket.socket, tls: ssl.SSLContext | None) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
