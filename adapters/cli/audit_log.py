"""`turntable adapters audit`: who did what to which version on which evidence."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.shared import DATA, URL, AsJson, DataDir, Gateway, admin_of, print_json, print_table


def audit(
    subject: Annotated[str | None, typer.Argument(help="An adapter, one version like name@v3, or key:ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, the newest first.")] = 30,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Who did what to which version on which evidence, newest first."""
    show_entries(subject, limit, gateway, data_dir, as_json=as_json)


def show_entries(subject: str | None, limit: int, gateway: str, data_dir: Path, *, as_json: bool) -> None:
    """Print the newest entries about a subject, or about everything."""
    parameters = {"limit": str(limit)} | ({"subject": subject} if subject else {})
    with admin_of(gateway, data_dir) as admin:
        entries = admin.request("GET", "/audit", params=parameters)["data"]
    if as_json:
        return print_json(entries)
    rows = [entry | {"evidence": _short(entry["evidence"])} for entry in entries]
    return print_table({head: head for head in ("at", "actor", "action", "subject", "evidence")}, rows)


def _short(evidence: dict[str, object]) -> str:
    plain = {name: value for name, value in evidence.items() if isinstance(value, str | int | float) and value != ""}
    text = ", ".join(f"{name} {value}" for name, value in plain.items())
    return text if len(text) <= 160 else f"{text[:159]}…"
