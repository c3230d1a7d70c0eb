"""`turntable usage`: what was used, asked of a running gateway; its rows, their end, and whether they are true."""

import csv
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Column, Table

from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, Since, admin_of, get
from turntable.console import console, show

Until = Annotated[str | None, typer.Option(help="Until this time, which is not part of it; now by default.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]

usage_app = typer.Typer()


@usage_app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    group_by: Annotated[str, typer.Option(help="Any of adapter,tenant,key,day, comma-separated.")] = "adapter",
    since: Since = None,
    until: Until = None,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter, or the base by its name.")] = None,
    tenant: Tenant = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by its id.")] = None,
    reconcile: Annotated[bool, typer.Option("--reconcile", help="Compare with the engines' own counters.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Requests and tokens from the ledger."""
    if context.invoked_subcommand is not None:
        return None
    if reconcile:
        return _reconcile(get(gateway, data_dir, "/usage/reconciliation", {"since": since}), as_json=as_json)
    asked = {"group_by": group_by, "since": since, "until": until, "adapter": adapter, "tenant": tenant, "key": key}
    document = get(gateway, data_dir, "/usage", asked)
    rows = document["data"]
    if as_json:
        return console().print_json(data=document)
    if as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        return writer.writerows(rows)
    heads = list(rows[0]) if rows else ["nothing was used yet"]
    table = Table()
    for head in heads:
        table.add_column(head, justify="right" if rows and isinstance(rows[0][head], int) else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    return show(table)


@usage_app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write: .jsonl or .csv.")],
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Write the ledger's rows to a file, one line per request."""
    form = file.suffix.removeprefix(".")
    if form not in ("jsonl", "csv"):
        _fail(f"{file} must end in .jsonl or .csv, which says what to write.")
    asked = {"format": form, "since": since, "until": until, "tenant": tenant}
    part = file.with_name(f"{file.name}.part")
    lines = 0
    with admin_of(gateway, data_dir) as admin:
        try:
            with part.open("wb") as out:
                for chunk in admin.download("/usage/rows", params={k: v for k, v in asked.items() if v is not None}):
                    lines += chunk.count(b"\n")
                    out.write(chunk)
            part.replace(file)
        except OSError as error:
            _fail(f"{file} cannot be written ({error.strerror}); give another place.")
        finally:
            part.unlink(missing_ok=True)
    console().print(f"{lines - (form == 'csv'):,} rows in {file}")


@usage_app.command()
def prune(
    before: Annotated[str, typer.Option(help="Delete rows from before this time, like 2026-01-01.")],
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Delete old rows of the ledger; their hours are summed up first, so no sum changes."""
    with admin_of(gateway, data_dir) as admin:
        deleted = admin.request("POST", "/usage/prune", json={"before": before})["deleted_rows"]
    console().print(f"{deleted:,} rows deleted; their sums stay")


@usage_app.command()
def forget(
    tenant: Annotated[str, typer.Argument(help="The tenant whose name is to go.")],
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Replace a tenant's name and key ids in old usage by pseudonyms; sums stay. This cannot be undone."""
    with admin_of(gateway, data_dir) as admin:
        found = admin.request("POST", "/usage/forget", json={"tenant": tenant})
    console().print(f"{found['rows']:,} rows of {found['keys']} keys now belong to {found['pseudonym']}")


def _reconcile(document: dict[str, Any], *, as_json: bool) -> None:
    """Show the comparison; the exit code is the verdict."""
    if as_json:
        console().print_json(data=document)
    else:
        show(_comparison(document))
        for run in document["data"]:
            unsure = {kind: count for kind, count in run["evidence"].items() if kind != "exact"}
            rows = ", ".join(f"{count:,} {who}" for who, count in run["rows"].items() if count)
            console().print(
                f"{run['engine']} since {run['first_seen']}: rows {rows or 'none'}; not exact: {unsure or 0}"
            )
        if lost := document["interrupted_without_engine"]:
            console().print(f"{lost:,} interrupted rows do not say which engine they were on")
    if document["agreement"] == "outside":
        sys.exit(1)


def _comparison(document: dict[str, Any]) -> Table:
    figures = (Column(head, justify="right") for head in ("ledger", "engine counted", "ratio"))
    table = Table("engine", "run", "tokens", *figures, "verdict")
    for run in document["data"]:
        for kind, sums in run["tokens"].items():
            ratio = "" if sums["ratio"] is None else f"{sums['ratio']:.6f}"
            name = kind.removesuffix("_tokens")
            counts = (f"{sums['ledger']:,}", f"{sums['engine']:,}", ratio, sums["agreement"])
            table.add_row(run["engine"], run["run"], name, *counts)
    return table


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(2)
