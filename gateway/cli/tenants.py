"""`turntable tenants`: limits and budgets over all keys of a tenant, at a running gateway."""

from typing import Annotated, Any

import typer

from adapters.cli.shared import print_json, print_table
from gateway.cli.account_options import Budgets, Concurrency, MaxTokens, Rpm, Tpm, account_of, shown, tell_if_unpriced
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, admin_of

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Like acme: what keys name as their tenant.")]
_HEADS = {"name": "name", "limits": "limits", "budgets": "budgets", "left": "left", "since": "created_at"}


@app.command("set")
def set_tenant(
    name: Name,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Give a tenant limits and budgets for all its keys together: what is given replaces all that was."""
    with admin_of(gateway, data_dir) as admin:
        body = account_of(rpm, tpm, max_concurrency, max_tokens, budget)
        _show([admin.request("PUT", f"/tenants/{name}", json=body)], as_json=as_json)
        tell_if_unpriced(admin, body)


@app.command()
def change(
    name: Name,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Change what is given and leave the rest; budgets are replaced as a whole."""
    with admin_of(gateway, data_dir) as admin:
        body = account_of(rpm, tpm, max_concurrency, max_tokens, budget)
        _show([admin.request("PATCH", f"/tenants/{name}", json=body)], as_json=as_json)
        tell_if_unpriced(admin, body)


@app.command("list")
def list_tenants(gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Every tenant with limits or budgets of its own."""
    with admin_of(gateway, data_dir) as admin:
        _show(admin.request("GET", "/tenants")["data"], as_json=as_json)


@app.command()
def show(name: Name, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """One tenant."""
    with admin_of(gateway, data_dir) as admin:
        _show([admin.request("GET", f"/tenants/{name}")], as_json=as_json)


@app.command()
def delete(name: Name, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Forget a tenant's limits and budgets; refused while keys of it work."""
    with admin_of(gateway, data_dir) as admin:
        _show([admin.request("DELETE", f"/tenants/{name}")], as_json=as_json)


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        return print_json(rows)
    return print_table(_HEADS, [shown(row) for row in rows])
