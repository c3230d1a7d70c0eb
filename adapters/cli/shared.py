"""What the adapter commands share: where the gateway is, how errors end, how rows become tables."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from adapters.admin_client import URL_VARIABLE, AdminClient, connect, gateway_address
from adapters.errors import AdapterError
from turntable.console import console, show

URL, DATA = "", Path("var")
"""Defaults of the two options below; no address means to look it up."""


def address_found(context: typer.Context, value: str) -> str:
    """The address given, else that of the gateway which runs on the data directory; for Typer to call."""
    data_dir = Path(context.params.get("data_dir") or DATA)
    return value or gateway_address(data_dir)


Gateway = Annotated[
    str,
    typer.Option(
        envvar=URL_VARIABLE,
        callback=address_found,
        show_default="that of the gateway on the data directory",
        help="The gateway's address.",
    ),
]
# Eager: the gateway's address is looked up in it.
DataDir = Annotated[
    Path, typer.Option(envvar="TURNTABLE_DATA_DIR", is_eager=True, help="Where a local gateway left admin.key.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Version = Annotated[str, typer.Argument(help="Like v3.")]
OverrideReason = Annotated[
    str | None, typer.Option("--override", metavar="REASON", help="Go live without a verdict that counts; on record.")
]
OverrideBy = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who answers for the override.")]
_VERSION_COLUMNS = {
    "adapter": "name",
    "version": "version",
    "digest": "digest",
    "state": "state",
    "traffic": "traffic",
    "verdict": "verdict",
    "approval": "approval",
    "override": "override",
    "parity": "parity",
    "resident": "resident",
    "reason": "reason",
}


@contextmanager
def admin_of(gateway: str, data_dir: Path) -> Iterator[AdminClient]:
    """A client of the gateway; whatever goes wrong with it is one line, and the end with 2."""
    try:
        with connect(gateway, data_dir) as admin:
            yield admin
    except AdapterError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


def show_versions(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print versions as the gateway describes them."""
    if as_json:
        return print_json(list(rows))
    print_table(_VERSION_COLUMNS, [row | {"digest": row["digest"][:12], **_verdict(row)} for row in rows])
    for row in rows:
        for converted in row.get("converted", ()):
            typer.echo(f"{row['name']}@{row['version']} converted: {converted}")
        for warning in row.get("warnings", ()):
            typer.echo(f"{row['name']}@{row['version']} warning: {warning}")
    return None


def override_of(reason: str | None, by: str | None) -> dict[str, str] | None:
    """What `--override` and `--by` say together; neither makes sense alone."""
    if (reason is None) != (by is None):
        raise typer.BadParameter("--override REASON and --by NAME go together.", param_hint="--override")
    return None if reason is None or by is None else {"reason": reason, "by": by}


def show_policy(policy: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the traffic policy of one name."""
    if as_json:
        return print_json(policy)
    parts = {
        part: split and f"{split['version']} {split['percent']:g}%"
        for part in ("canary", "shadow")
        for split in (policy.get(part),)
    }
    return print_table({name: name for name in ("name", "live", "previous", *parts, "pinned")}, [{**policy, **parts}])


def fact_rows(document: Mapping[str, Any], under: str = "") -> Iterator[dict[str, str]]:
    """A nested document as rows of one fact each: `checks.0.name`, and its value in plain text."""
    for name, value in document.items():
        what = f"{under}{name}"
        if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from fact_rows(value, f"{what}.")
        elif value not in (None, "", []):
            yield {"what": what, "found": _cell(value) or "no"}


def to_the_second(at: str) -> str:
    """A time as the gateway gives it, without the fraction that only takes room in a table."""
    return f"{at[:19]}Z"


def print_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Print rows as a table; `columns` maps headings to keys, and a column that is empty throughout is left out."""
    shown = {head: [_cell(row.get(key)) for row in rows] for head, key in columns.items()}
    kept = {head: cells for head, cells in shown.items() if any(cells)} if rows else shown
    table = Table(*kept, title=title, title_justify="left")
    for cells in zip(*kept.values(), strict=True):
        table.add_row(*cells)
    show(table)


def print_json(document: Any) -> None:
    """Print a document as JSON."""
    console().print_json(data=document)


def _verdict(row: Mapping[str, Any]) -> dict[str, Any]:
    verdict = row.get("verdict")
    # PROMOTE alone opens the gate; one that was reached on another base or on part of the data does not.
    stale = verdict == "PROMOTE" and not row.get("verdict_counts")
    return {"verdict": f"{verdict} (does not count now)" if stale else verdict}


def _cell(value: Any) -> str:
    if value is None or value is False or value == []:
        return ""
    if value is True:
        return "yes"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
