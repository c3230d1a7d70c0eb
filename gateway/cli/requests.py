"""`turntable requests`: why a request failed, by its id, and which requests ended how, at a running gateway."""

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console

from adapters.cli.shared import print_json, print_table
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, Since, get

app = typer.Typer(help="Why a request failed, and which requests ended how.", no_args_is_help=True)
_HEADS = {"at": "at", "status": "status", "id": "id", "key": "key", "model": "model", "reason": "why"}


@app.command()
def show(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The x-request-id of the answer.")],
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """When a request came, from whom, what it asked, which engine had it, how it ended and why."""
    found = get(gateway, data_dir, f"/requests/{quote(request_id, safe='')}", {})["data"]
    if as_json:
        print_json(found)
        return
    for number, one in enumerate(found):
        if number:
            Console().print()
        for name, value in _lines(one):
            Console().print(f"{name:<10} {value}", highlight=False, markup=False, soft_wrap=True)


@app.command("list")
def list_requests(
    status: Annotated[str | None, typer.Option(help="Like 429, 4xx or 5xx.")] = None,
    key: Annotated[str | None, typer.Option(help="Id of a key.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    model: Annotated[str | None, typer.Option(help="A model asked for, or an adapter.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 50,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """The newest requests, of the last day unless --since says otherwise."""
    wanted = {"status": status, "key": key, "tenant": tenant, "model": model, "since": since, "limit": limit}
    found = get(gateway, data_dir, "/requests", wanted)["data"]
    if as_json:
        print_json(found)
        return
    rows = [one | {"why": (one["reason"] or {}).get("code") or one["outcome"]} for one in found]
    print_table(_HEADS, rows)


def _lines(one: dict[str, Any]) -> list[tuple[str, Any]]:
    reason, timings, tokens = one["reason"], one["timings_ms"], one["tokens"]
    known = {name: f"{value:,.1f} ms" for name, value in timings.items() if value is not None}
    lines = [
        ("request", one["id"]),
        ("client id", one["client_request_id"]),
        ("when", one["at"]),
        ("who", one["key"] and f"key {one['key']}, tenant {one['tenant']}"),
        ("asked", ", ".join(filter(None, (one["model"], one["api"], one["stream"] and "streamed")))),
        ("version", one["version"] and f"{one['version']}{' ' + one['digest'] if one['digest'] else ''}"),
        ("engine", one["engine"]),
        ("attempt", one["attempt"] if one["attempt"] > 1 else None),
        ("ended", f"{one['status'] or 'still open'}, {one['outcome']}"),
        ("why", reason and f"{reason['message']}{' (' + reason['code'] + ')' if reason['code'] else ''}"),
        ("took", ", ".join(f"{name} {value}" for name, value in known.items())),
        ("tokens", tokens and tokens["prompt"] is not None and _tokens(tokens)),
        ("cost", one["cost_usd"] is not None and f"${one['cost_usd']:.9f}"),
        ("found in", one["found_in"]),
    ]
    return [(name, value) for name, value in lines if value]


def _tokens(tokens: dict[str, Any]) -> str:
    cached = f" ({tokens['cached']:,} of them cached)" if tokens["cached"] else ""
    return f"{tokens['prompt']:,} in{cached}, {tokens['completion'] or 0:,} out"
