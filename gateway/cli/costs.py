"""`turntable costs`: the bill and what follows from it, asked of a running gateway; and what it rests on."""

import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import orjson
import typer

from adapters.admin_client import admin_key
from gateway.cli import breakeven as breakeven_command
from gateway.cli import calibrate as calibrate_command
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, Since, admin_of, get
from gateway.costs.document import CostDocument
from gateway.costs.evidence import EvidenceKind, EvidenceProvenance, from_file
from gateway.costs.html import html_page
from gateway.costs.terminal import as_csv, shown
from gateway.errors import GatewayError
from turntable.console import console, show

costs_app = typer.Typer()


@costs_app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    since: Since = None,
    until: Annotated[str | None, typer.Option(help="Until this time, which is not part of it; now by default.")] = None,
    group_by: Annotated[str, typer.Option(help="Any of adapter,tenant,key,engine,day, comma-separated.")] = "adapter",
    vs: Annotated[list[str] | None, typer.Option(help="Compare with provider:model; may be repeated.")] = None,
    idle: Annotated[str | None, typer.Option(help="Idle time: own_line, proportional or even.")] = None,
    usd_per_hour: Annotated[str | None, typer.Option(help="What if every engine had cost this per hour?")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with charts to this file.")] = None,
    as_csv_text: Annotated[bool, typer.Option("--csv", help="Print CSV instead of tables.")] = False,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """The engines' bill by adapter, idle time included, beside what frontier APIs would have charged."""
    if context.invoked_subcommand is not None:
        return
    asked = {"since": since, "until": until, "group_by": group_by, "vs": vs, "idle": idle, "usd_per_hour": usd_per_hour}
    document = CostDocument.model_validate(get(gateway, data_dir, "/costs", asked))
    if html is not None:
        _write(html, html_page(document))
    if as_json:
        console().print_json(document.model_dump_json())
    elif as_csv_text:
        typer.echo(as_csv(document), nl=False)
    else:
        for part in shown(document):
            if isinstance(part, str):
                console().print(part)
            else:
                show(part)


@costs_app.command()
def record(
    file: Annotated[Path, typer.Argument(help="The JSON of `turntable loadtest capacity` or `turntable compare`.")],
    despite: Annotated[
        str | None, typer.Option(metavar="REASON", help="Take a capacity that was not measured here; kept with it.")
    ] = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
) -> None:
    """Tell the gateway what was measured: capacity from a load test, or quality from a comparison."""
    try:
        kind, fact = from_file(orjson.loads(file.read_bytes()))
    except OSError as error:
        _fail(f"{file} cannot be read ({error.strerror}).")
    except (orjson.JSONDecodeError, KeyError, TypeError, ZeroDivisionError) as error:
        _fail(f"{file} is no JSON of `turntable loadtest` or `turntable compare` ({error}).")
    except GatewayError as error:
        _fail(f"{file}: {error}")
    with admin_of(gateway, data_dir) as admin:
        if kind is EvidenceKind.CAPACITY:
            fact["despite"] = _demand_ours(file, fact, gateway, _served(gateway, data_dir), despite)
        admin.request("POST", f"/costs/evidence/{kind}", json=fact)
    console().print(f"{kind} from {file} counts from now on.")


def _demand_ours(
    file: Path, fact: dict[str, Any], gateway: str, models: Collection[str] | None, despite: str | None
) -> str | None:
    """Refuse a capacity that was measured on something else; returns why it counts all the same."""
    found = EvidenceProvenance.model_validate(fact["provenance"] or {})
    served = found.models if models is None else models
    strange = found.differences(gateway, served, metadata.version("turntable-gateway"))
    if strange and despite is None:
        _fail(
            f"{file} is no capacity of this gateway: {'; '.join(strange)}. Measure with `turntable loadtest capacity "
            f"--url {gateway}`, or give --despite REASON."
        )
    return despite if strange else None


def _served(gateway: str, data_dir: Path) -> set[str] | None:
    """What may be asked for at the gateway; None where this address does not tell."""
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


costs_app.command("calibrate")(calibrate_command.calibrate)
costs_app.command("breakeven")(breakeven_command.breakeven)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        _fail(f"{path} cannot be written ({error.strerror}).")


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(2)
