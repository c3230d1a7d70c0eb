"""Command-line options that several commands share: the gateway's address, the data directory, output, overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA_DIR = Path("var")
DEFAULT_GATEWAY = ""
"""No address given: `adapters.admin_client` takes that of the gateway on the data directory."""


DataDir = Annotated[
    Path,
    typer.Option(
        envvar="TURNTABLE_DATA_DIR",
        help="The data directory: runs, reports, the admin key and address of a local gateway.",
    ),
]
Gateway = Annotated[
    str,
    typer.Option(
        envvar="TURNTABLE_GATEWAY_URL",
        show_default="that of the gateway on the data directory",
        help="The gateway's address.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV instead of tables.")]
Since = Annotated[str | None, typer.Option(help="Start of the time window, like 2026-11-22T10:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="End of the time window, exclusive.", show_default="now")]
OverrideReason = Annotated[
    str | None,
    typer.Option("--override", metavar="REASON", help="Promote without a valid verdict; REASON goes to the audit log."),
]
OverrideBy = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who is accountable for the override.")]


def override_of(reason: str | None, by: str | None) -> Mapping[str, str] | None:
    """The override that `--override` and `--by` describe; raises `BadParameter` when only one is given."""
    if (reason is None) != (by is None):
        raise typer.BadParameter("--override REASON and --by NAME go together.", param_hint="--override")
    return None if reason is None or by is None else {"reason": reason, "by": by}
