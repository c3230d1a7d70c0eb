"""`turntable adapters …`: what an operator does with adapters on a running gateway."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import wrap_file
from rich.table import Table

from adapters.client import AdminClient
from adapters.connection import connect
from adapters.errors import AdapterError

app = typer.Typer(help="Publish, list and promote adapters on a running gateway.", no_args_is_help=True)
Gateway = Annotated[str, typer.Option(envvar="TURNTABLE_GATEWAY_URL", help="The gateway's address.")]
DataDir = Annotated[Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where a local gateway left admin.key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_URL, _DATA = "http://127.0.0.1:8080", Path("var")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name that applications will use as the model.")],
    directory: Annotated[Path, typer.Argument(help="A folder with adapter_config.json and adapter_model.safetensors.")],
    promote: Annotated[bool, typer.Option(help="Make the new version live at once.")] = False,
    gateway: Gateway = _URL,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """Upload an adapter: it is checked, stored, loaded into the engine, and live once promoted."""
    console = Console(stderr=True)
    with _admin(gateway, data_dir) as admin:
        published = admin.publish(
            name,
            directory,
            opened=lambda file: wrap_file(
                file,
                Path(file.name).stat().st_size,
                description="uploading",
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ),
        )
        answer = {
            "name": name,
            "version": published.version,
            "digest": published.digest,
            "state": published.state,
        }
        if promote:
            answer |= admin.promote(name, published.version)
    _show([answer], as_json)


@app.command("list")
def list_adapters(gateway: Gateway = _URL, data_dir: DataDir = _DATA, as_json: AsJson = False) -> None:
    """All adapters with their versions, states and the live one."""
    with _admin(gateway, data_dir) as admin:
        _show(admin.request("GET", "/adapters")["data"], as_json)


@app.command()
def show(name: str, gateway: Gateway = _URL, data_dir: DataDir = _DATA) -> None:
    """One adapter whole, with the manifest of every version, as JSON."""
    with _admin(gateway, data_dir) as admin:
        Console().print_json(data=admin.request("GET", f"/adapters/{name}"))


@app.command("promote")
def promote_version(
    name: str,
    version: Annotated[str, typer.Argument(help="Like v3.")],
    expect_live: Annotated[str | None, typer.Option(help="Refuse unless this version is live now.")] = None,
    gateway: Gateway = _URL,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """Make a version live: new requests go to it at once, running ones finish where they began."""
    with _admin(gateway, data_dir) as admin:
        _show([admin.promote(name, version, expect_live=expect_live)], as_json)


@contextmanager
def _admin(gateway: str, data_dir: Path) -> Iterator[AdminClient]:
    try:
        with connect(gateway, data_dir) as admin:
            yield admin
    except AdapterError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        return Console().print_json(data=rows)
    table = Table("adapter", "version", "digest", "state", "live", "reason")
    for row in rows:
        live = "live" if row.get("live") else ""
        table.add_row(row["name"], row["version"], row["digest"][:12], row["state"], live, row.get("reason", ""))
    return Console().print(table)
