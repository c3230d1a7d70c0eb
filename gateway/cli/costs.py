"""`turntable costs`: the cost report of a running gateway, and the measurements that it uses."""

from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer

from adapters.admin_client import admin_key, connect, gateway_address
from adapters.errors import AdapterError
from gateway.cli import breakeven as breakeven_command
from gateway.cli import calibrate as calibrate_command
from gateway.costs.document import CostDocument
from gateway.costs.evidence import EvidenceKind, EvidenceProvenance, from_file
from gateway.costs.page import html_page
from gateway.costs.terminal import as_csv, shown
from gateway.errors import GatewayError
from turntable.console import App, CommandError, Table, print_json, say, show
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsCsv, AsJson, DataDir, Gateway, Since, Until

app = App(errors=(AdapterError, GatewayError))


@app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    group_by: Annotated[str, typer.Option(help="Any of adapter,tenant,key,engine,day, comma-separated.")] = "adapter",
    vs: Annotated[list[str] | None, typer.Option(help="Compare with provider:model; repeatable.")] = None,
    idle: Annotated[str | None, typer.Option(help="How to bill idle time: own_line, proportional or even.")] = None,
    usd_per_hour: Annotated[str | None, typer.Option(help="Recompute with this price per engine and hour.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as an HTML page to this file.")] = None,
    csv_output: AsCsv = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Report engine costs by adapter, including idle time, and the charges of frontier APIs for the same requests."""
    if context.invoked_subcommand is not None:
        return
    asked = {"since": since, "until": until, "group_by": group_by, "vs": vs, "idle": idle, "usd_per_hour": usd_per_hour}
    with connect(gateway, data_dir) as admin:
        document = CostDocument.model_validate(admin.get("/costs", **asked))
    if html is not None:
        _write(html, html_page(document))
    if as_json:
        print_json(document.model_dump(mode="json"))
    elif csv_output:
        typer.echo(as_csv(document), nl=False)
    else:
        for part in shown(document):
            if isinstance(part, Table):
                typer.echo()
                show(part)
                typer.echo()
            else:
                say(part)


app.command("calibrate")(calibrate_command.calibrate)
app.command("breakeven")(breakeven_command.breakeven)


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="JSON output of `turntable loadtest capacity` or `turntable compare`.")],
    despite: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Record a capacity that was measured elsewhere; REASON is kept with it."),
    ] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Record a measurement for cost reports: capacity from a load test, or quality from a comparison."""
    try:
        kind, fact = from_file(orjson.loads(file.read_bytes()))
    except OSError as error:
        raise CommandError(f"{file} cannot be read ({error.strerror}); check the path.") from error
    except (orjson.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CommandError(
            f"{file} is not JSON output of `turntable loadtest` or `turntable compare` ({error})."
        ) from error
    except GatewayError as error:
        raise CommandError(f"{file}: {error}") from error
    url = gateway_address(data_dir, gateway)
    with connect(url, data_dir) as admin:
        if kind is EvidenceKind.CAPACITY:
            fact["despite"] = _check_provenance(file, fact, url, _served(url, data_dir), despite)
        admin.request("POST", f"/costs/evidence/{kind}", json=fact)
    say(f"{kind} from {file} is used from now on.")


def _check_provenance(
    file: Path, fact: dict[str, Any], gateway: str, models: Collection[str] | None, despite: str | None
) -> str | None:
    """Refuse a capacity that was measured on another server, unless `despite` says why; return that reason."""
    found = EvidenceProvenance.model_validate(fact["provenance"] or {})
    served = found.models if models is None else models
    strange = found.differences(gateway, served, metadata.version("turntable-gateway"))
    if strange and despite is None:
        raise CommandError(
            f"{file} was not measured on this gateway: {'; '.join(strange)}. Measure with `turntable loadtest capacity "
            f"--url {gateway}`, or give --despite REASON."
        )
    return despite if strange else None


def _served(gateway: str, data_dir: Path) -> set[str] | None:
    """The models that the gateway serves; None when this address does not list them."""
    try:
        response = httpx.get(
            f"{gateway.rstrip('/')}/v1/models",
            headers={"authorization": f"Bearer {admin_key(data_dir)}"},
            trust_env=False,
            timeout=10,
        )
    except httpx.HTTPError:
        return None
    return {model["id"] for model in response.json()["data"]} if response.is_success else None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}); give another path.") from error
