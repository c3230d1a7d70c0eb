"""`turntable feedback list | export | forget`: what applications said of answers, and the next round's data from it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.shared import print_json, print_table
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, Since, admin_of, get

app = typer.Typer(help="What applications said of answers, and data made from it.", no_args_is_help=True)
Adapter = Annotated[str | None, typer.Option(help="Only on this adapter's answers.")]
Tenant = Annotated[str | None, typer.Option(help="Only of this tenant.")]
_COLUMNS = {name: name for name in ("at", "adapter", "digest", "tenant", "rating", "tags", "comment", "content")}


@app.command("list")
def list_feedback(
    adapter: Adapter = None,
    tenant: Tenant = None,
    since: Since = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """The newest feedback first."""
    rows = get(gateway, data_dir, "/feedback", {"adapter": adapter, "tenant": tenant, "since": since})["data"]
    if as_json:
        return print_json(rows)
    shown = [
        row | {"rating": f"{row['rating']:+g}", "content": [part for part in ("messages", "expected") if row[part]]}
        for row in rows
    ]
    return print_table(_COLUMNS, shown)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where the rows go, one JSON object a line.")],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Preferences: what was expected against what was given.")
    ] = False,
    adapter: Adapter = None,
    tenant: Tenant = None,
    since: Since = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Write the next round's data set: conversations with the answer that was expected."""
    kind = "pairs" if pairs else "chat"
    asked = {"kind": kind, "adapter": adapter, "tenant": tenant, "since": since}
    found = get(gateway, data_dir, "/feedback/rows", asked)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found["data"]]
    try:
        file.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written ({error.strerror}).", param_hint="FILE") from error
    typer.echo(
        f"{len(lines)} rows from {found['feedback']} pieces of feedback in {file}; check them: turntable data check"
    )


@app.command()
def forget(
    tenant: Annotated[str, typer.Argument(help="Whose feedback is deleted.")],
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Delete everything that a tenant's keys ever said; on the audit log."""
    with admin_of(gateway, data_dir) as admin:
        deleted = admin.request("DELETE", "/feedback", params={"tenant": tenant})["deleted"]
    typer.echo(f"{deleted} pieces of feedback deleted.")
