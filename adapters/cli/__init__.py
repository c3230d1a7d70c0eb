"""`turntable adapters`: publish adapters and decide which version answers, on a running gateway."""

from adapters.cli import rollout, status, versions
from adapters.errors import AdapterError
from turntable.console import App

app = App(
    errors=(AdapterError,),
    help="Publish, promote, roll back and retire adapters on a running gateway.",
    no_args_is_help=True,
)
VERSIONS, ROLLOUT, STATUS = "Versions", "Rollout", "Status"
app.command("add", rich_help_panel=VERSIONS)(versions.add)
app.command("list", rich_help_panel=VERSIONS)(versions.list_adapters)
app.command("show", rich_help_panel=VERSIONS)(versions.show)
app.command("verify", rich_help_panel=VERSIONS)(versions.verify)
app.command("retire", rich_help_panel=VERSIONS)(versions.retire)
app.command("approve", rich_help_panel=ROLLOUT)(rollout.approve)
app.command("promote", rich_help_panel=ROLLOUT)(rollout.promote)
app.command("rollback", rich_help_panel=ROLLOUT)(rollout.rollback)
app.command("canary", rich_help_panel=ROLLOUT)(rollout.canary)
app.command("shadow", rich_help_panel=ROLLOUT)(rollout.shadow)
app.command("withdraw", rich_help_panel=ROLLOUT)(rollout.withdraw)
app.command("pin", rich_help_panel=ROLLOUT)(rollout.pin)
app.command("unpin", rich_help_panel=ROLLOUT)(rollout.unpin)
app.command("engines", rich_help_panel=STATUS)(status.engines)
app.command("drift", rich_help_panel=STATUS)(status.drift)
app.command("audit", rich_help_panel=STATUS)(status.audit)
