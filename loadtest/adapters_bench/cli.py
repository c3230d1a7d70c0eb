"""`turntable loadtest bench-adapters`: many adapters on a real engine, from start to a killed engine and back."""

import sys
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

app = typer.Typer()


@app.command("bench-adapters")
def bench_adapters(
    model: Annotated[Path, typer.Option(help="The base model's directory.")] = Path("var/base-model"),
    registered: Annotated[int, typer.Option(min=CACHED + 20, help="How many adapters to register.")] = 1_000,
    active: Annotated[int, typer.Option(min=20, help="How many of them get traffic.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="How often throughput is measured.")] = 9,
    resolve_pin_us: Annotated[
        float | None, typer.Option(help="A figure measured elsewhere, to stand with these.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all samples as JSON.")] = None,
) -> None:
    """Measure cold starts, slots, a thousand adapters and a killed engine on a real vLLM behind Turntable."""
    try:
        result = measure(model, registered, min(active, registered), rounds, lambda line: typer.echo(line, err=True))
    except (LoadtestError, httpx.HTTPError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
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
        sys.exit(1)
