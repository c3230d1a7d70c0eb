"""`turntable adapters …`: what an operator does with adapters on a running gateway."""

import typer

from adapters.cli import audit_log, engines, traffic, versions, watching

app = typer.Typer(help="Publish, prove, promote and retire adapters on a running gateway.", no_args_is_help=True)
app.command()(versions.add)
app.command("list")(versions.list_adapters)
app.command()(versions.show)
app.command()(versions.verify)
app.command()(watching.drift)
app.command()(traffic.approve)
app.command()(traffic.promote)
app.command()(traffic.rollback)
app.command()(traffic.canary)
app.command()(traffic.shadow)
app.command()(traffic.pin)
app.command()(traffic.unpin)
app.command()(traffic.withdraw)
app.command()(versions.retire)
app.command()(audit_log.audit)
app.command()(engines.engines)
