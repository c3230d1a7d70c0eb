"""`turntable feedback list | export | forget`: user feedback on answers, and datasets made from it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adapters.admin_client import connect
from adapters.errors import AdapterError
from turntable.console import App, CommandError, count, print_json, say, show, table_of
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway, Since

app = App(errors=(AdapterError,), help="List, export and delete the feedback of applications.", no_args_is_help=True)
Adapter = Annotated[str | None, typer.Option(help="Only feedback on this adapter's answers.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]
_COLUMNS = {name: name for name in ("at", "adapter", "digest", "tenant", "rating", "tags", "comment", "content")}


@app.command("list")
def list_feedback(
    adapter: Adapter = None,
    tenant: Tenant = None,
    since: Since = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List feedback, the newest first."""
    with connect(gateway, data_dir) as admin:
        rows = admin.get("/feedback", adapter=adapter, tenant=tenant, since=since)["data"]
    if as_json:
        print_json(rows)
        return
    shown = [
        row | {"rating": f"{row['rating']:+g}", "content": [part for part in ("messages", "expected") if row[part]]}
        for row in rows
    ]
    show(table_of(_COLUMNS, shown))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Write preference pairs: the expected answer against the given one.")
    ] = False,
    adapter: Adapter = None,
    tenant: Tenant = None,
    since: Since = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write feedback as a dataset: conversations with the expected answer, or preference pairs."""
    with connect(gateway, data_dir) as admin:
        kind = "pairs" if pairs else "chat"
        found = admin.get("/feedback/rows", kind=kind, adapter=adapter, tenant=tenant, since=since)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found["data"]]
    try:
        file.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file} cannot be written ({error.strerror}); give another path.") from error
    say(
        f"{count(len(lines), 'row')} from {found['feedback']} pieces of feedback in {file}; "
        "check them: turntable data check"
    )


@app.command()
def forget(
    tenant: Annotated[str, typer.Argument(help="The tenant whose feedback is deleted.")],
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete all feedback of a tenant's keys; recorded in the audit log."""
    with connect(gateway, data_dir) as admin:
        deleted = admin.request("DELETE", "/feedback", params={"tenant": tenant})["deleted"]
    say(f"{deleted} pieces of feedback deleted.")
