"""`turntable usage` and `turntable costs`: what was used and what it cost, asked of a running gateway."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from adapters import AdapterError
from adapters.connection import connect

usage_app, costs_app = typer.Typer(), typer.Typer()
Gateway = Annotated[str, typer.Option(envvar="TURNTABLE_GATEWAY_URL", help="The gateway's address.")]
DataDir = Annotated[Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where a local gateway left admin.key.")]
Since = Annotated[str | None, typer.Option(help="From this time on, like 2026-11-22T10:00:00Z.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_URL, _DATA = "http://127.0.0.1:8080", Path("var")


@usage_app.command()
def usage(
    group_by: Annotated[str, typer.Option(help="Any of adapter,tenant,key,day, comma-separated.")] = "adapter",
    since: Since = None,
    gateway: Gateway = _URL,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """Requests and tokens from the ledger."""
    document = _get(gateway, data_dir, "/usage", {"group_by": group_by, "since": since})
    if as_json:
        return Console().print_json(data=document)
    rows = document["data"]
    table = Table(*(rows[0] if rows else ["nothing was used yet"]))
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    return Console().print(table)


@costs_app.command()
def costs(
    since: Since = None,
    vs: Annotated[list[str] | None, typer.Option(help="Compare with provider:model; may be repeated.")] = None,
    gateway: Gateway = _URL,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """The engine's bill by adapter, idle time included, beside what frontier APIs would have charged."""
    document = _get(gateway, data_dir, "/costs", {"since": since, "vs": vs})
    if as_json:
        return Console().print_json(data=document)
    return _print_costs(document)


def _print_costs(document: dict[str, Any]) -> None:
    lines, console = document["data"], Console()
    others = list(lines[0]["elsewhere_nano_usd"]) if lines else []
    tokens = _table("model", "requests", "prompt tokens", "of them cached", "completion tokens")
    money = _table("model", "here", *(name.partition(":")[2] for name in others))
    for line in lines:
        counts = (line["requests"], line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"])
        tokens.add_row(line["model"], *(f"{count:,}" for count in counts))
        elsewhere = (_usd(line["elsewhere_nano_usd"][name]) for name in others)
        money.add_row(line["model"], _usd(line["cost_nano_usd"]), *elsewhere)
    money.add_section()
    money.add_row("(idle)", _usd(document["idle_nano_usd"]))
    money.add_row("(bill)", _usd(document["bill_nano_usd"]))
    console.print(tokens)
    console.print(money)
    console.print(
        f"Engine up {document['engine_up_s']:.0f} s, busy {document['engine_busy_s']:.1f} s. Elsewhere: list prices of "
        f"{document['prices']['on']} from {document['prices']['source']} for the same token counts; other tokenizers "
        "count differently."
    )


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _usd(nano_usd: int | None) -> str:
    return "unpriced" if nano_usd is None else f"${nano_usd / 1e9:,.6f}"


def _get(gateway: str, data_dir: Path, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in parameters.items() if value is not None}
    try:
        with connect(gateway, data_dir) as admin:
            return admin.request("GET", path, params=given)
    except AdapterError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
