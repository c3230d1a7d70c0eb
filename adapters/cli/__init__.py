"""`turntable adapters …`: what an operator does with adapters on a running gateway."""

import typer

from adapters.cli import rollout, status, versions

app = typer.Typer(help="Publish, prove, promote and retire adapters on a running gateway.", no_args_is_help=True)
app.command()(versions.add)
app.command("list")(versions.list_adapters)
app.command()(versions.show)
app.command()(versions.verify)
app.command()(status.drift)
app.command()(rollout.approve)
app.command()(rollout.promote)
app.command()(rollout.rollback)
app.command()(rollout.canary)
app.command()(rollout.shadow)
app.command()(rollout.pin)
app.command()(rollout.unpin)
app.command()(rollout.withdraw)
app.command()(versions.retire)
app.command()(status.audit)
app.command()(status.engines)
