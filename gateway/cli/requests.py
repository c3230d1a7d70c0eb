"""`turntable requests`: look up one request by its id, or list requests by status, key, tenant or model."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from adapters.admin_client import connect
from adapters.errors import AdapterError
from turntable.console import App, print_json, table_of
from turntable.console import show as show_table
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway, Since

app = App(errors=(AdapterError,), help="Look up requests and why they failed.", no_args_is_help=True)
_HEADS = {"at": "at", "status": "status", "id": "id", "key": "key", "model": "model", "reason": "why"}


@app.command()
def show(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The response's x-request-id header.")],
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show one request: time, key, model, engine, status, reason, timings, tokens and cost."""
    with connect(gateway, data_dir) as admin:
        found = admin.get(f"/requests/{quote(request_id, safe='')}")["data"]
    if as_json:
        print_json(found)
        return
    for number, request in enumerate(found):
        if number:
            typer.echo()
        for name, value in _lines(request):
            typer.echo(f"{name:<10} {value}")


@app.command("list")
def list_requests(
    status: Annotated[str | None, typer.Option(help="HTTP status, like 429, 4xx or 5xx.")] = None,
    key: Annotated[str | None, typer.Option(help="Id of a key.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    model: Annotated[str | None, typer.Option(help="Requested model or adapter.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many requests, the newest first.")] = 50,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List the newest requests; those of the last 24 hours unless --since is given."""
    with connect(gateway, data_dir) as admin:
        found = admin.get("/requests", status=status, key=key, tenant=tenant, model=model, since=since, limit=limit)[
            "data"
        ]
    if as_json:
        print_json(found)
        return
    rows = [
        request
        | {"status": str(request["status"] or ""), "why": (request["reason"] or {}).get("code") or request["outcome"]}
        for request in found
    ]
    show_table(table_of(_HEADS, rows))


def _lines(request: dict[str, Any]) -> list[tuple[str, Any]]:
    reason, timings, tokens = request["reason"], request["timings_ms"], request["tokens"]
    known = {name: f"{value:,.1f} ms" for name, value in timings.items() if value is not None}
    lines = [
        ("request", request["id"]),
        ("client id", request["client_request_id"]),
        ("at", request["at"]),
        ("key", request["key"] and f"{request['key']}, tenant {request['tenant']}"),
        ("model", ", ".join(filter(None, (request["model"], request["api"], request["stream"] and "streamed")))),
        (
            "version",
            request["version"] and f"{request['version']}{' ' + request['digest'] if request['digest'] else ''}",
        ),
        ("engine", request["engine"]),
        ("attempt", request["attempt"] if request["attempt"] > 1 else None),
        ("status", f"{request['status'] or 'still running'}, {request['outcome']}"),
        ("reason", reason and f"{reason['message']}{' (' + reason['code'] + ')' if reason['code'] else ''}"),
        ("timings", ", ".join(f"{name} {value}" for name, value in known.items())),
        ("tokens", tokens and tokens["prompt"] is not None and _tokens(tokens)),
        ("cost", request["cost_usd"] is not None and f"${request['cost_usd']:.9f}"),
        ("source", request["found_in"]),
    ]
    return [(name, value) for name, value in lines if value]


def _tokens(tokens: dict[str, Any]) -> str:
    cached = f" ({tokens['cached']:,} cached)" if tokens["cached"] else ""
    return f"{tokens['prompt']:,} in{cached}, {tokens['completion'] or 0:,} out"
