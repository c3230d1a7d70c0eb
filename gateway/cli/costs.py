"""`turntable costs`: the bill and what follows from it, asked of a running gateway; and what it rests on."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console

from gateway.cli import breakeven as breakeven_command
from gateway.cli import calibrate as calibrate_command
from gateway.cli.gateway_options import DATA, URL, AsJson, DataDir, Gateway, Since, admin_of, get
from gateway.costs.document import CostDocument
from gateway.costs.measurements import from_file
from gateway.costs.page import html_page
from gateway.costs.sheet import as_csv
from gateway.costs.show import shown
from gateway.errors import GatewayError

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
        Console().print_json(document.model_dump_json())
    elif as_csv_text:
        typer.echo(as_csv(document), nl=False)
    else:
        for part in shown(document):
            Console().print(part)


@costs_app.command()
def record(
    file: Annotated[Path, typer.Argument(help="The JSON of `turntable loadtest capacity` or `turntable compare`.")],
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
        admin.request("POST", f"/costs/evidence/{kind}", json=fact)
    Console().print(f"{kind} from {file} counts from now on.")


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
