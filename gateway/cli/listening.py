"""Where `turntable serve` listens: the public address, the operators' own if there is one, and TLS in front of them."""

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


@dataclass(frozen=True)
class Listeners:
    """Bound sockets, not yet served; `admin` is None where one address serves everything."""

    public: socket.socket
    admin: socket.socket | None
    tls: ssl.SSLContext | None

    @property
    def public_url(self) -> str:
        """Where applications find the gateway."""
        return _url(self.public, self.tls)

    @property
    def admin_url(self) -> str | None:
        """Where operators find it, unless it is the same."""
        return None if self.admin is None else _url(self.admin, self.admin_tls)

    @property
    def admin_tls(self) -> ssl.SSLContext | None:
        """On loopback nothing leaves the machine, and no certificate names it."""
        return None if self.admin is None or _is_loopback(self.admin) else self.tls


@contextlib.contextmanager
def open_listeners(settings: Settings) -> Iterator[Listeners]:
    """Bind the addresses of the settings; raises `ServeError` when one is taken, or keys would cross a network
    unencrypted.
    """
    tls = _tls(settings)
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(bind(settings.host, settings.port, "--port"))
        admin = None
        if settings.admin_port is not None:
            admin = stack.enter_context(bind(settings.admin_host, settings.admin_port, "--admin-port"))
        for listener in (public, admin):
            if listener is not None and tls is None and not settings.plain_http and not _is_loopback(listener):
                raise ServeError(
                    f"Keys would cross the network unencrypted: {listener.getsockname()[0]} is no loopback address; "
                    "give --tls-cert and --tls-key, or --plain-http where something in front of the gateway speaks TLS."
                )
        yield Listeners(public, admin, tls)


@contextlib.contextmanager
def address_kept(data_dir: Path, doors: Listeners) -> Iterator[None]:
    """While the gateway runs, the data directory says where, for the commands on this machine."""
    path = data_dir / ADDRESS_FILE
    public = _reachable(doors.public_url)
    said = {
        "url": public,
        "admin_url": public if doors.admin_url is None else _reachable(doors.admin_url),
        "pid": os.getpid(),
        "started": time.time(),
    }
    with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=f".{ADDRESS_FILE}.", delete=False) as scratch:
        json.dump(said, scratch)
    Path(scratch.name).replace(path)
    try:
        yield
    finally:
        # Another gateway on the same directory may have written its own since.
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text(encoding="utf-8")) == said:
                path.unlink()


def _reachable(url: str) -> str:
    """An address that takes connections from everywhere, as this machine reaches it."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def bind(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; raises `ServeError` naming the option when the address cannot be had."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(
            f"Port {port} on {host} cannot be used ({error.strerror}); choose another with {option}."
        ) from error
    listener.set_inheritable(False)
    return listener


def server_config(app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """How uvicorn serves the gateway: no logs of its own, our front door, a deadline for shutting down."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=strict_protocol(_limits(settings), Listener.WHOLE if settings.admin_port is None else Listener.PUBLIC),
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )


def server(app: ASGIApp, settings: Settings, doors: Listeners) -> GatewayServer:
    """The gateway's server; run it on `doors.public`."""
    config = server_config(app, settings, doors.tls)
    if doors.admin is None:
        return GatewayServer(config, None)
    return GatewayServer(
        config, AdminListener(doors.admin, strict_protocol(_limits(settings), Listener.WHOLE), doors.admin_tls)
    )


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(settings.header_timeout_s, settings.max_header_bytes, settings.max_connections)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        if settings.tls_key is not None or settings.tls_client_ca is not None:
            raise ServeError("There is no TLS without a certificate; give --tls-cert as well.")
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
