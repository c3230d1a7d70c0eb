"""The trainer's commands, from `advise` to `report`, each imported when it is called.

A command that is not asked for costs nothing: `turntable train --help` loads neither an HTTP client nor torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

_COMMANDS = ("advise", "base", "compare", "data", "lineage", "merge", "report", "review", "train")


def __getattr__(name: str) -> "typer.Typer":
    if name not in _COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app: typer.Typer = importlib.import_module(f"{__name__}.{name}_command").app
    return app
