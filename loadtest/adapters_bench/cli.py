"""`turntable loadtest bench-adapters`: benchmark a real engine with many adapters, including a restart after a kill."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import orjson
import typer

from loadtest.adapters_bench.measure import measure
from loadtest.adapters_bench.results import rows, table
from loadtest.adapters_bench.server import CACHED
from loadtest.bench.machine import machine
from loadtest.errors import LoadtestError
from turntable.console import FAILED, App

app = App(errors=(LoadtestError, httpx.HTTPError))


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
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all samples as JSON.")] = None,
) -> None:
    """Benchmark cold starts, slots, a thousand adapters and a killed engine on a real vLLM behind Turntable."""
    result = measure(model, registered, min(active, registered), rounds, lambda line: typer.echo(line, err=True))
    document = {
        "started": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "resolve_pin_us": resolve_pin_us,
        **asdict(result),
    }
    if json_out:
        json_out.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    typer.echo(f"\n{table(result, resolve_pin_us)}")
    if not all(row.is_met for row in rows(result, resolve_pin_us)):
        raise typer.Exit(FAILED)
