"""`turntable tenants`: limits and budgets shared by all keys of a tenant, on a running gateway."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.admin_client import connect
from adapters.errors import AdapterError
from gateway.cli.limits import (
    Budgets,
    Concurrency,
    MaxTokens,
    Rpm,
    Tpm,
    limits_body,
    show_rows,
    warn_if_unpriced,
)
from turntable.console import App
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

app = App(errors=(AdapterError,), help="Set limits and budgets of tenants.", no_args_is_help=True)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The tenant's name, as given to `turntable keys create --tenant`.")
]
_HEADS = {"name": "name", "limits": "limits", "budgets": "budgets", "left": "left", "since": "created_at"}


@app.command("set")
def set_tenant(
    name: Name,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Set limits and budgets for all keys of a tenant together; earlier ones are replaced."""
    body = limits_body(rpm, tpm, max_concurrency, max_tokens, budget)
    _write(gateway, data_dir, "PUT", name, body, as_json=as_json)


@app.command()
def change(
    name: Name,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Change the given limits and leave the rest; budgets are replaced as a whole."""
    body = limits_body(rpm, tpm, max_concurrency, max_tokens, budget)
    _write(gateway, data_dir, "PATCH", name, body, as_json=as_json)


@app.command("list")
def list_tenants(
    gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """List all tenants that have limits or budgets."""
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, admin.get("/tenants")["data"], as_json=as_json)


@app.command()
def show(
    name: Name, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Show the limits, budgets and spending of one tenant."""
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, [admin.get(f"/tenants/{name}")], as_json=as_json)


@app.command()
def delete(
    name: Name, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Delete a tenant's limits and budgets; refused while it has active keys."""
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, [admin.request("DELETE", f"/tenants/{name}")], as_json=as_json)


def _write(gateway: str, data_dir: Path, method: str, name: str, body: dict[str, Any], *, as_json: bool) -> None:
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, [admin.request(method, f"/tenants/{name}", json=body)], as_json=as_json)
        warn_if_unpriced(admin, body)
