"""The `turntable` command: a table of sub-commands, each imported only when it is called."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

import typer


@dataclass(frozen=True)
class Command:
    """Where a sub-command's Typer app lives, and the line that `turntable --help` shows for it."""

    module: str
    attribute: str
    help: str

    def load(self) -> typer.Typer:
        """Import the sub-command."""
        app: typer.Typer = getattr(importlib.import_module(self.module), self.attribute)
        return app


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "serve": Command("gateway.cli.serve", "app", "Serve the base model and all adapters."),
        "demo": Command("examples.demo", "app", "Run the whole loop on the embedded base model."),
        "adapters": Command("adapters.cli", "app", "Publish, list and promote adapters."),
        "advise": Command("trainer.cli", "advise", "Should this be fine-tuned at all?"),
        "data": Command("trainer.cli", "data", "Check, convert and preview training data."),
        "train": Command("trainer.cli", "train", "Train an adapter from a recipe."),
        "merge": Command("trainer.cli", "merge", "Merge an adapter into its base as one model directory."),
        "lineage": Command("trainer.cli", "lineage", "Say which runs and adapters saw a row."),
        "compare": Command("trainer.cli", "compare", "Score models on a held-out file through the gateway."),
        "review": Command("trainer.cli", "review", "Rate two arms' answers blindly, in a browser."),
        "report": Command("trainer.cli", "report", "A comparison's decision as HTML and Markdown."),
        "base": Command("trainer.cli", "base", "Build the embedded base model."),
        "feedback": Command("gateway.cli.feedback", "app", "What applications said of answers; data from it."),
        "keys": Command("gateway.cli.keys", "app", "Give out, change, rotate and revoke keys."),
        "tenants": Command("gateway.cli.tenants", "app", "Limits and budgets over all keys of a tenant."),
        "requests": Command("gateway.cli.requests", "app", "Why a request failed; which ended how."),
        "usage": Command("gateway.cli.usage", "usage_app", "Requests and tokens from the ledger."),
        "costs": Command("gateway.cli.costs", "costs_app", "The bill by adapter, beside frontier prices."),
        "prices": Command("gateway.cli.prices", "app", "What frontier APIs charge, and how old that is."),
        "loadtest": Command("loadtest.cli", "app", "Measure latency and throughput under load."),
    }
)


def help_text() -> str:
    """What `turntable --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: turntable COMMAND [OPTIONS]",
            "",
            "One base model, every adapter: serve, train, prove and cost LoRA adapters.",
            "",
            "Commands:",
            *lines,
            "",
            "`turntable COMMAND --help` explains a command.",
        ]
    )


def main() -> None:
    """Entry point: hands the rest of the command line to the sub-command."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())  # noqa: T201
    elif name == "--version":
        print(f"turntable {metadata.version('turntable-gateway')}")  # noqa: T201
    elif name in COMMANDS:
        COMMANDS[name].load()(args=arguments, prog_name=f"turntable {name}")
    else:
        sys.exit(_unknown(name))


def _unknown(name: str) -> int:
    print(f"error: there is no command '{name}'; `turntable --help` lists them.", file=sys.stderr)  # noqa: T201
    return 2
