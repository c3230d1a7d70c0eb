"""`turntable keys`: give out keys, see and change what they may do, rotate and revoke them, at a running gateway."""

from typing import Annotated, Any

import typer

from adapters.cli.shared import print_json, print_table
from adapters.cli.status import show_entries
from gateway.cli.account_options import (
    Budgets,
    Concurrency,
    MaxTokens,
    Rpm,
    Tpm,
    account_of,
    end_of,
    seconds_of,
    shown,
    tell_if_unpriced,
)
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, admin_of

app = typer.Typer(no_args_is_help=True)
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The public id: what stands between tt- and the next dash.")]
Adapters = Annotated[
    list[str] | None, typer.Option("--adapter", help="Model names it may use, like support-*; may be repeated.")
]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="inference, usage, metrics, admin; may be repeated.")]
Expires = Annotated[str | None, typer.Option(help="When it ends: 2027-01-01, 30d, or none.")]
_COLUMNS = ("id", "name", "tenant", "state", "scopes", "adapters", "limits", "budgets", "left")
_HEADS = {head: head for head in _COLUMNS} | {"ends": "expires_at", "old secret ends": "old_secret_until"}


@app.command()
def create(
    name: str,
    tenant: Annotated[str, typer.Option(help="Who pays for it.")] = "default",
    adapter: Adapters = None,
    scope: Scopes = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    expires: Expires = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Give out a key: it is printed this once, alone on standard output, and can never be read again."""
    with admin_of(gateway, data_dir) as admin:
        body = {"name": name, "tenant": tenant} | account_of(rpm, tpm, max_concurrency, max_tokens, budget)
        body |= _rights(adapter, scope, expires)
        _hand_out(admin.request("POST", "/keys", json=body), as_json=as_json)
        tell_if_unpriced(admin, body)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Every key that ever was, the oldest first, without its secret."""
    with admin_of(gateway, data_dir) as admin:
        rows = admin.request("GET", "/keys", params={"tenant": tenant} if tenant else {})["data"]
    if as_json:
        return print_json(rows)
    return print_table(_HEADS, [shown(row) for row in rows])


@app.command()
def audit(
    key: Annotated[str | None, typer.Argument(metavar="[ID]", help="One key; all of them when not given.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, the newest first.")] = 30,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Who gave out, changed, rotated and revoked keys, newest first."""
    show_entries(f"key:{key or ''}", limit, gateway, data_dir, as_json=as_json)


@app.command()
def show(key_id: KeyId, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """One key: what it may do, within which limits and budgets, until when, and what it has spent of them."""
    with admin_of(gateway, data_dir) as admin:
        document = admin.request("GET", f"/keys/{key_id}")
    _show(document, as_json=as_json)
    if document["spending"] and not as_json:
        print_table({head: head for head in document["spending"][0]}, document["spending"])


@app.command()
def change(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    adapter: Adapters = None,
    scope: Scopes = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    expires: Expires = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Change what is given and leave the rest: adapters, scopes and budgets are replaced as a whole."""
    with admin_of(gateway, data_dir) as admin:
        body = account_of(rpm, tpm, max_concurrency, max_tokens, budget) | _rights(adapter, scope, expires)
        body |= {"name": name} if name else {}
        _show(admin.request("PATCH", f"/keys/{key_id}", json=body), as_json=as_json)
        tell_if_unpriced(admin, body)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret stays good, like 24h; 0s ends every earlier one.")
    ] = "0s",
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret, printed this once; the old one stays good for the overlap. Until that is over, the key
    is rotated again only without one.
    """
    with admin_of(gateway, data_dir) as admin:
        body = {"overlap_s": seconds_of(overlap)}
        _hand_out(admin.request("POST", f"/keys/{key_id}/rotate", json=body), as_json=as_json)


@app.command()
def revoke(key_id: KeyId, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """End a key for good: at once on this gateway, within a second or so on others."""
    with admin_of(gateway, data_dir) as admin:
        _show(admin.request("DELETE", f"/keys/{key_id}"), as_json=as_json)


@app.command()
def expire(
    key_id: KeyId,
    at: Annotated[str, typer.Option(help="When it ends: 2027-01-01, 30d, or none to let it live on.")] = "0s",
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Let a key end now or at another time; unlike a revoked one, it can be brought back."""
    with admin_of(gateway, data_dir) as admin:
        _show(admin.request("PATCH", f"/keys/{key_id}", json={"expires_at": end_of(at)}), as_json=as_json)


def _rights(adapters: list[str] | None, scopes: list[str] | None, expires: str | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if adapters:
        given["adapters"] = adapters
    if scopes:
        given["scopes"] = scopes
    if expires is not None:
        given["expires_at"] = end_of(expires)
    return given


def _hand_out(document: dict[str, Any], *, as_json: bool) -> None:
    """Print a key alone on standard output, so that it can be piped to where it is kept."""
    if as_json:
        return print_json(document)
    typer.echo(f"key {document['id']} of tenant {document['tenant']}, shown this once:", err=True)
    return typer.echo(document["key"])


def _show(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        return print_json(document)
    return print_table(_HEADS, [shown(document)])
