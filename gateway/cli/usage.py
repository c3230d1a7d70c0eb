"""`turntable usage`: usage from the ledger of a running gateway: report, reconcile, export, prune, pseudonymise."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.admin_client import connect
from adapters.errors import AdapterError
from turntable.console import (
    FAILED,
    App,
    Column,
    CommandError,
    Table,
    csv_text,
    figures,
    print_json,
    say,
    show,
    table_of,
)
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsCsv, AsJson, DataDir, Gateway, Since, Until

Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]

app = App(errors=(AdapterError,))


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    group_by: Annotated[str, typer.Option(help="Any of adapter,tenant,key,day, comma-separated.")] = "adapter",
    since: Since = None,
    until: Until = None,
    adapter: Annotated[str | None, typer.Option(help="Only this adapter, or the base model by its name.")] = None,
    tenant: Tenant = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by its id.")] = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare the ledger with the engines' token counters.")
    ] = False,
    as_csv: AsCsv = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Report requests and tokens from the ledger; with --reconcile, exit code 1 when they differ from the engines'."""
    if context.invoked_subcommand is not None:
        return
    with connect(gateway, data_dir) as admin:
        if reconcile:
            _show_reconciliation(admin.get("/usage/reconciliation", since=since), as_json=as_json)
            return
        document = admin.get(
            "/usage", group_by=group_by, since=since, until=until, adapter=adapter, tenant=tenant, key=key
        )
    rows = document["data"]
    if as_json:
        print_json(document)
    elif as_csv:
        typer.echo(csv_text(list(rows[0]) if rows else [], rows), nl=False)
    elif rows:
        show(table_of({head.replace("_", " "): head for head in rows[0]}, rows, keep_empty=True))
    else:
        say("No usage in this time window.")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write: .jsonl or .csv.")],
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Export ledger entries to a file, one line per request."""
    form = file.suffix.removeprefix(".")
    if form not in ("jsonl", "csv"):
        raise CommandError(f"{file} must end in .jsonl or .csv, which selects the format.")
    asked = {"format": form, "since": since, "until": until, "tenant": tenant}
    part = file.with_name(f"{file.name}.part")
    lines = 0
    with connect(gateway, data_dir) as admin:
        try:
            with part.open("wb") as out:
                for chunk in admin.download("/usage/rows", params={k: v for k, v in asked.items() if v is not None}):
                    lines += chunk.count(b"\n")
                    out.write(chunk)
            part.replace(file)
        except OSError as error:
            raise CommandError(f"{file} cannot be written ({error.strerror}); give another path.") from error
        finally:
            part.unlink(missing_ok=True)
    say(f"{lines - (form == 'csv'):,} rows in {file}")


@app.command()
def prune(
    before: Annotated[str, typer.Option(help="Delete entries from before this time, like 2026-01-01.")],
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete old ledger entries; hourly totals are kept, so reports do not change."""
    with connect(gateway, data_dir) as admin:
        deleted = admin.request("POST", "/usage/prune", json={"before": before})["deleted_rows"]
    say(f"{deleted:,} rows deleted; their hourly totals are kept")


@app.command()
def forget(
    tenant: Annotated[str, typer.Argument(help="The tenant whose name is replaced.")],
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Replace a tenant's name and key ids in past usage by pseudonyms. Totals stay. This cannot be undone."""
    with connect(gateway, data_dir) as admin:
        found = admin.request("POST", "/usage/forget", json={"tenant": tenant})
    say(f"{found['rows']:,} rows of {found['keys']} keys now belong to {found['pseudonym']}")


def _show_reconciliation(document: dict[str, Any], *, as_json: bool) -> None:
    """Print the reconciliation; raises `typer.Exit` with 1 when ledger and engine counters disagree."""
    if as_json:
        print_json(document)
    else:
        show(_comparison(document))
        for run in document["data"]:
            unsure = {kind: count for kind, count in run["evidence"].items() if kind != "exact"}
            inexact = ", ".join(f"{count:,} {kind}" for kind, count in unsure.items() if count) or "0"
            rows = ", ".join(f"{count:,} {who}" for who, count in run["rows"].items() if count)
            say(f"{run['engine']} since {run['first_seen']}: rows {rows or 'none'}; not exact: {inexact}")
        if lost := document["interrupted_without_engine"]:
            say(f"{lost:,} interrupted rows name no engine")
    if document["agreement"] == "outside":
        raise typer.Exit(FAILED)


def _comparison(document: dict[str, Any]) -> Table:
    table = Table("engine", "run", "tokens", *figures("ledger", "engine counted", "ratio"), Column("verdict"))
    for run in document["data"]:
        for kind, sums in run["tokens"].items():
            ratio = "" if sums["ratio"] is None else f"{sums['ratio']:.6f}"
            name = kind.removesuffix("_tokens")
            table.add(
                run["engine"], run["run"], name, f"{sums['ledger']:,}", f"{sums['engine']:,}", ratio, sums["agreement"]
            )
    return table
