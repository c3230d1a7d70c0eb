"""`turntable keys`: create API keys, see and change their rights and limits, rotate and revoke them."""

from typing import Annotated, Any

import typer

from adapters.admin_client import connect
from adapters.cli.status import show_audit_log
from adapters.errors import AdapterError
from gateway.cli.limits import (
    Budgets,
    Concurrency,
    MaxTokens,
    Rpm,
    Tpm,
    expiry_of,
    limits_body,
    seconds_of,
    show_rows,
    warn_if_unpriced,
)
from turntable.console import App, print_json, table_of
from turntable.console import show as show_table
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

app = App(errors=(AdapterError,), help="Create, change, rotate and revoke API keys.", no_args_is_help=True)
KeyId = Annotated[
    str, typer.Argument(metavar="ID", help="The key's public id: the part between tt- and the next dash.")
]
Adapters = Annotated[
    list[str] | None, typer.Option("--adapter", help="Model names the key may use, like support-*; repeatable.")
]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="inference, usage, metrics or admin; repeatable.")]
Expires = Annotated[str | None, typer.Option(help="When the key expires: 2027-01-01, 30d, or none.")]
_COLUMNS = ("id", "name", "tenant", "state", "scopes", "adapters", "limits", "budgets", "left")
_HEADS = {head: head for head in _COLUMNS} | {"expires": "expires_at", "old secret until": "old_secret_until"}


@app.command()
def create(
    name: str,
    tenant: Annotated[str, typer.Option(help="The tenant that the key belongs to.")] = "default",
    adapter: Adapters = None,
    scope: Scopes = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    expires: Expires = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Create a key. It is printed once, alone on standard output, and cannot be shown again."""
    with connect(gateway, data_dir) as admin:
        body = {"name": name, "tenant": tenant} | limits_body(rpm, tpm, max_concurrency, max_tokens, budget)
        body |= _rights(adapter, scope, expires)
        _print_key(admin.request("POST", "/keys", json=body), as_json=as_json)
        warn_if_unpriced(admin, body)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List all keys, the oldest first, without their secrets."""
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, admin.get("/keys", tenant=tenant)["data"], as_json=as_json)


@app.command()
def audit(
    key: Annotated[str | None, typer.Argument(metavar="[ID]", help="One key; all keys when omitted.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, the newest first.")] = 30,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print the audit log of keys, the newest entries first."""
    show_audit_log(f"key:{key or ''}", limit, gateway, data_dir, as_json=as_json)


@app.command()
def show(
    key_id: KeyId, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Show one key: scopes, models, limits, budgets, expiry, and what it has spent."""
    with connect(gateway, data_dir) as admin:
        document = admin.get(f"/keys/{key_id}")
    show_rows(_HEADS, document, as_json=as_json)
    if document["spending"] and not as_json:
        show_table(table_of({head: head for head in document["spending"][0]}, document["spending"]))


@app.command()
def change(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    adapter: Adapters = None,
    scope: Scopes = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    max_concurrency: Concurrency = None,
    max_tokens: MaxTokens = None,
    budget: Budgets = None,
    expires: Expires = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Change the given fields of a key; lists of models, scopes and budgets are replaced as a whole."""
    with connect(gateway, data_dir) as admin:
        body = limits_body(rpm, tpm, max_concurrency, max_tokens, budget) | _rights(adapter, scope, expires)
        body |= {"name": name} if name else {}
        show_rows(_HEADS, admin.request("PATCH", f"/keys/{key_id}", json=body), as_json=as_json)
        warn_if_unpriced(admin, body)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret stays valid, like 24h; 0s ends every earlier one.")
    ] = "0s",
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret, printed once; the old one stays valid for the overlap. During an overlap the key can
    be rotated again only without one.
    """
    with connect(gateway, data_dir) as admin:
        body = {"overlap_s": seconds_of(overlap)}
        _print_key(admin.request("POST", f"/keys/{key_id}/rotate", json=body), as_json=as_json)


@app.command()
def revoke(
    key_id: KeyId, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Revoke a key permanently: at once on this gateway, within about a second on others."""
    with connect(gateway, data_dir) as admin:
        show_rows(_HEADS, admin.request("DELETE", f"/keys/{key_id}"), as_json=as_json)


@app.command()
def expire(
    key_id: KeyId,
    at: Annotated[str, typer.Option(help="When the key expires: 2027-01-01, 30d, or none.", show_default="now")] = "0s",
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Set when a key expires, now by default; unlike a revoked key, it can be reactivated."""
    with connect(gateway, data_dir) as admin:
        show_rows(
            _HEADS, admin.request("PATCH", f"/keys/{key_id}", json={"expires_at": expiry_of(at)}), as_json=as_json
        )


def _rights(adapters: list[str] | None, scopes: list[str] | None, expires: str | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if adapters:
        given["adapters"] = adapters
    if scopes:
        given["scopes"] = scopes
    if expires is not None:
        given["expires_at"] = expiry_of(expires)
    return given


def _print_key(document: dict[str, Any], *, as_json: bool) -> None:
    """Print a key alone on standard output, so that it can be piped to where it is kept."""
    if as_json:
        return print_json(document)
    typer.echo(f"key {document['id']} of tenant {document['tenant']}, shown once:", err=True)
    return typer.echo(document["key"])
