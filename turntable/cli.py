"""The `turntable` command: a group whose sub-commands are imported when they are called."""

import importlib
from importlib import metadata
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from turntable.console import INTERRUPTED, App, Command, CommandError, Group


class LazyCommand(TyperCommand):
    """Name and help of a sub-command whose app, at a `target` like `gateway.cli.serve:app`, is not imported yet."""

    def __init__(self, name: str, panel: str, target: str, summary: str) -> None:
        super().__init__(name, short_help=summary, rich_help_panel=panel, rich_markup_mode=None)
        self._target = target

    def load(self) -> Command | Group:
        """Import the app and return its command."""
        module, _, attribute = self._target.partition(":")
        try:
            app = getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise CommandError("interrupted", exit_code=INTERRUPTED) from None
        return cast("Command | Group", typer.main.get_command(app))


COMMANDS = {
    name: LazyCommand(name, panel, target, summary)
    for name, panel, target, summary in (
        ("serve", "Serve", "gateway.cli.serve:app", "Serve the base model and all adapters."),
        ("adapters", "Serve", "adapters.cli:app", "Publish, promote, roll back and retire adapters."),
        ("demo", "Serve", "examples.demo:app", "Run the whole loop on the embedded base model."),
        ("data", "Train", "trainer.cli.data:app", "Check, convert, preview and split datasets."),
        ("advise", "Train", "trainer.cli.advise:app", "Decide between prompting, retrieval and fine-tuning."),
        ("train", "Train", "trainer.cli.train:app", "Train an adapter from a recipe."),
        ("export", "Train", "trainer.cli.export:app", "Export an adapter: PEFT's files, a merged model, or GGUF."),
        ("push", "Train", "trainer.cli.push:app", "Push a finished run to a model hub."),
        ("lineage", "Train", "trainer.cli.lineage:app", "Find the runs and adapters that used an example."),
        ("base", "Train", "trainer.cli.base:app", "Build the embedded base model."),
        ("compare", "Evaluate", "trainer.cli.compare:app", "Evaluate an adapter on a frozen task."),
        ("review", "Evaluate", "trainer.cli.review:app", "Rate pairs of answers blindly, in a browser."),
        ("report", "Evaluate", "trainer.cli.report:app", "Write an evaluation report as HTML and Markdown."),
        ("feedback", "Evaluate", "gateway.cli.feedback:app", "List, export and delete user feedback."),
        ("keys", "Operate", "gateway.cli.keys:app", "Create, change, rotate and revoke API keys."),
        ("tenants", "Operate", "gateway.cli.tenants:app", "Set limits and budgets of tenants."),
        ("requests", "Operate", "gateway.cli.requests:app", "Look up requests and why they failed."),
        ("usage", "Operate", "gateway.cli.usage:app", "Report, export and reconcile usage."),
        ("costs", "Measure", "gateway.cli.costs:app", "Report what adapters cost, beside frontier APIs."),
        ("prices", "Measure", "gateway.cli.prices:app", "List and update the prices of frontier APIs."),
        ("loadtest", "Measure", "loadtest.cli:app", "Measure latency and throughput under load."),
    )
}


class LazyGroup(Group):
    """Lists `COMMANDS` in help and shell completion without importing them; imports the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands.update(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that `args` name."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, LazyCommand) else command, rest


app = App(cls=LazyGroup, add_completion=True, invoke_without_command=True)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"turntable {metadata.version('turntable-gateway')}")
        raise typer.Exit


@app.callback()
def turntable(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve, train, evaluate and cost LoRA adapters on one base model."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line."""
    app(prog_name="turntable")
