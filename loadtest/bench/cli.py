"""Commands `turntable loadtest bench`, `bench-adapters`, `bench-lora` and `soak`: measure and write samples as JSON."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import orjson
import typer

from loadtest.bench import adapters, lora, results
from loadtest.bench.adapters_server import CACHED
from loadtest.bench.machine import machine
from loadtest.bench.results import SLOPE_LIMIT_MIB, TARGETS, Result, Soak
from loadtest.bench.rounds import measure
from loadtest.bench.rounds import measure_soak as run_soak
from loadtest.bench.systems import DIRECT, NAMES, SYSTEMS, TURNTABLE, select_systems
from loadtest.errors import InvalidWorkloadError, LoadtestError
from turntable.console import FAILED, App

app = App(errors=(LoadtestError, httpx.HTTPError))

ALL = ",".join(NAMES)

Systems = Annotated[str, typer.Option(help="Systems to measure, comma-separated.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each system is measured.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Length of one phase in seconds.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write all samples as JSON.")]
Venvs = Annotated[Path, typer.Option(help="The folder with a virtual environment for each other system.")]
Requests = Annotated[int, typer.Option(min=20, help="Number of requests.")]


@app.command()
def bench(
    systems: Systems = ALL,
    rounds: Rounds = 3,
    seconds: Seconds = 3,
    json_out: JsonOut = None,
    venvs: Venvs = Path(".bench"),
) -> None:
    """Measure CPU, latency, memory and cold start beside vllm-router and LiteLLM, in front of a mock engine."""
    names = select_systems(systems)
    versions = _versions(names, venvs)
    command = f"turntable loadtest bench --systems {','.join(names)} --rounds {rounds} --seconds {seconds:g}"
    left_out = [name for name in NAMES if name not in names]
    result = Result(_now(), command, machine(), versions, left_out, rounds, seconds)
    measure(result, names, venvs, _say)
    _write(json_out, result.as_json())
    for text in (
        results.bars_table(result),
        results.ratios_table(result),
        results.figures_table(result),
        results.bottleneck_table(result),
    ):
        typer.echo(f"\n{text}")
    if result.faults() or any(target.verdict(result) == "missed" for target in TARGETS):
        raise typer.Exit(FAILED)


@app.command()
def soak(requests: Requests = 100_000, json_out: JsonOut = None, venvs: Venvs = Path(".bench")) -> None:
    """Send many requests through Turntable and report the growth of its memory."""
    versions, started = _versions([TURNTABLE], venvs), _now()
    failed, rss_mib = run_soak(requests, venvs, _say)
    found = Soak(started, machine(), versions, requests, failed, rss_mib)
    _write(json_out, asdict(found))
    typer.echo(results.soak_table(found))
    if failed or found.slope_mib > SLOPE_LIMIT_MIB:
        raise typer.Exit(FAILED)


@app.command("bench-adapters")
def bench_adapters(
    model: Annotated[Path, typer.Option(help="The base model directory.")] = Path("var/base-model"),
    registered: Annotated[int, typer.Option(min=CACHED + 20, help="Adapters to register.")] = 1_000,
    active: Annotated[int, typer.Option(min=20, help="Adapters that get traffic.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of throughput measurements.")] = 9,
    resolve_pin_us: Annotated[
        float | None,
        typer.Option(help="Time to resolve and pin a version in us, measured separately."),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Benchmark cold starts, slots, a thousand adapters and a killed engine on a real vLLM behind Turntable."""
    found = adapters.measure_adapters(model, registered, min(active, registered), rounds, _say)
    origin = {"started": _now(), "machine": machine(), "resolve_pin_us": resolve_pin_us}
    _write(json_out, origin | asdict(found))
    typer.echo(f"\n{adapters.table(found, resolve_pin_us)}")
    if not all(row.is_met for row in adapters.rows(found, resolve_pin_us)):
        raise typer.Exit(FAILED)


@app.command("bench-lora")
def bench_lora(
    model: Annotated[Path, typer.Option(help="The base model directory.")] = Path("var/base-model"),
    rounds: Annotated[int, typer.Option(min=1, help="How often each case is measured.")] = 9,
    json_out: JsonOut = None,
) -> None:
    """Benchmark adapters on vLLM's CPU engine beside its base and beside an engine without LoRA."""
    found = lora.measure_lora(model, rounds, _say)
    command = f"turntable loadtest bench-lora --model {model.name} --rounds {rounds}"
    _write(json_out, {"started": _now(), "command": command, "machine": machine()} | asdict(found))
    typer.echo(f"\n{lora.table(found)}")
    if not found.are_bars_met:
        raise typer.Exit(FAILED)


def _versions(names: list[str], venvs: Path) -> dict[str, str]:
    found = {name: SYSTEMS[name].version(venvs) for name in names if name != DIRECT}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        there = ",".join(name for name in names if name not in missing)
        raise InvalidWorkloadError(
            f"{' and '.join(missing)} left out: not installed in {venvs}; `make bench` installs them,"
            f" or measure the rest with --systems {there}."
        )
    return {name: version for name, version in found.items() if version}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _write(path: Path | None, document: dict[str, object]) -> None:
    if path is None:
        return
    try:
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise InvalidWorkloadError(f"{path} cannot be written ({error.strerror}); give another path.") from error
