"""What the gateway's commands share that ask a running gateway, beside what the adapter commands have already."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.shared import DATA as DATA
from adapters.cli.shared import URL as URL
from adapters.cli.shared import AsJson as AsJson
from adapters.cli.shared import DataDir as DataDir
from adapters.cli.shared import Gateway as Gateway
from adapters.cli.shared import admin_of as admin_of

Since = Annotated[str | None, typer.Option(help="From this time on, like 2026-11-22T10:00:00Z.")]


def get(gateway: str, data_dir: Path, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """One question to the admin API; parameters that are None are left out."""
    with admin_of(gateway, data_dir) as admin:
        given = {name: value for name, value in parameters.items() if value is not None}
        return admin.request("GET", path, params=given)
