"""`turntable costs breakeven`: the sum done for figures of your own; needs no gateway, no network, no traffic."""

import sys
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gateway.cli.moments import moment
from gateway.costs.breakeven import DAY_S, BreakEven, Fleet, break_even, payback_days
from gateway.costs.plan import read_presets
from gateway.errors import GatewayError
from gateway.prices.rates import Tokens, rates_for

_THOUSAND = 1000


def breakeven(
    capacity_per_s: Annotated[str, typer.Option(help="Requests per second that one engine takes within its limits.")],
    usd_per_hour: Annotated[str | None, typer.Option(help="What an engine costs per hour.")] = None,
    hardware: Annotated[str | None, typer.Option(help="Instead: a preset like h100, as low, typical and high.")] = None,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Of a request, on average.")] = 1024,
    output_tokens: Annotated[int, typer.Option(min=0, help="Of an answer, on average.")] = 128,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Of the prompt, where caches are cheaper.")] = 0,
    vs: Annotated[list[str] | None, typer.Option(help="Compare with provider:model; may be repeated.")] = None,
    requests_per_day: Annotated[str | None, typer.Option(help="What if there were so many?")] = None,
    utilisation: Annotated[str | None, typer.Option(help="Instead: this share of one engine's capacity.")] = None,
    investment_usd: Annotated[str, typer.Option(help="Training, data and people, to be paid back.")] = "0",
    peak_to_mean: Annotated[str, typer.Option(help="The busiest moment over the mean of a day.")] = "1",
    min_replicas: Annotated[int, typer.Option(min=1, help="Engines that run at any volume.")] = 1,
    batch: Annotated[bool, typer.Option("--batch", help="Compare with batch prices.")] = False,
    on: Annotated[str | None, typer.Option(help="Prices of this moment; now by default.")] = None,
    data_dir: Annotated[Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where prices.toml is.")] = Path("var"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """At which volume own engines pay, by price of the engine and model elsewhere, as steps of whole engines."""
    try:
        rates = _hourly(usd_per_hour, hardware)
        tokens = Tokens(prompt_tokens, output_tokens, Decimal(str(cached_share)) * prompt_tokens)
        capacity, peak = _number("capacity-per-s", capacity_per_s), _number("peak-to-mean", peak_to_mean, Decimal(1))
        fleets = {name: Fleet(usd, capacity, peak, min_replicas) for name, usd in rates.items()}
        volume = _volume(fleets, requests_per_day, utilisation)
        invested = _number("investment-usd", investment_usd, Decimal(0))
        charges = _charges(data_dir, vs, tokens, moment(on), batch=batch)
    except GatewayError as error:
        _fail(str(error))
    rows = [
        _row(fleet_name, fleet, name, usd, volume, invested)
        for fleet_name, fleet in fleets.items()
        for name, usd in charges.items()
    ]
    if as_json:
        Console().print_json(data={"data": rows})
        return
    Console().print(_table(rows))
    floors = {name: fleet.floor_usd_per_request() for name, fleet in fleets.items()}
    words = ", ".join(f"${(floor or 0) * _THOUSAND:,.4f} {name}" for name, floor in floors.items())
    Console().print(f"Own engine at its capacity, per 1,000 requests: {words}.")


def _row(at: str, fleet: Fleet, name: str, usd: Decimal, volume: Decimal | None, invested: Decimal) -> dict[str, Any]:
    found = break_even(fleet, usd)
    row: dict[str, Any] = {
        "engine": at,
        "comparator": name,
        "usd_per_thousand": float(usd * _THOUSAND),
        "requests_per_day": None if found.requests_per_day is None else float(found.requests_per_day),
        "share_of_capacity": None if found.share_of_capacity is None else float(found.share_of_capacity),
        "for_good_from": None if found.for_good_from is None else float(found.for_good_from),
        "reason": found.reason,
        "steps": _steps(found),
    }
    if volume is not None:
        own = fleet.usd_per_day(fleet.replicas(volume))
        back = payback_days(invested, volume * usd - own)
        row |= {
            "at_requests_per_day": float(volume),
            "replicas": fleet.replicas(volume),
            "own_usd_per_day": float(own),
            "elsewhere_usd_per_day": float(volume * usd),
            "payback_days": None if back is None else float(back),
        }
    return row


def _steps(found: BreakEven) -> list[dict[str, float | int | None]]:
    return [
        {
            "replicas": step.replicas,
            "usd_per_day": float(step.usd_per_day),
            "pays_from": None if step.pays_from is None else float(step.pays_from),
            "up_to": None if step.up_to is None else float(step.up_to),
        }
        for step in found.steps
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("engine", "instead of", box=box.SIMPLE_HEAD)
    heads = ["per 1,000 requests", "pays from requests a day", "of one engine"]
    if any("replicas" in row for row in rows):
        heads += ["engines", "own a day", "there a day", "paid back after"]
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        never = row["requests_per_day"] is None
        pays = "never" if never else f"{row['requests_per_day']:,.0f}"
        share = "" if row["share_of_capacity"] is None else f"{row['share_of_capacity']:.1%}"
        cells = [row["engine"], row["comparator"], f"${row['usd_per_thousand']:,.4f}", pays, share]
        if "replicas" in row:
            back = "never" if row["payback_days"] is None else f"{row['payback_days']:,.1f} days"
            cells += [
                str(row["replicas"]),
                f"${row['own_usd_per_day']:,.2f}",
                f"${row['elsewhere_usd_per_day']:,.2f}",
                back,
            ]
        table.add_row(*cells)
    return table


def _charges(data_dir: Path, vs: list[str] | None, tokens: Tokens, at: datetime, *, batch: bool) -> dict[str, Decimal]:
    from gateway.costs.comparators import factor_for, read_factors
    from gateway.prices.book import PriceBook
    from gateway.prices.comparison import DEFAULT_COMPARISON

    book, factors, found = PriceBook.open(data_dir), read_factors(), {}
    for name in vs or DEFAULT_COMPARISON:
        scaled = tokens.scaled(factor_for(name, factors).typical)
        found[name] = rates_for(book.find(name).tiers(at, batch=batch), scaled.prompt).charge_usd(scaled)
    return found


def _hourly(usd_per_hour: str | None, hardware: str | None) -> dict[str, Decimal]:
    if (usd_per_hour is None) == (hardware is None):
        _fail("Give the engine's price as --usd-per-hour, or as --hardware.")
    if usd_per_hour is not None:
        return {f"${usd_per_hour}/h": _number("usd-per-hour", usd_per_hour)}
    presets = read_presets()
    if hardware not in presets:
        _fail(f"No hardware is called '{hardware}'; use {', '.join(presets)}, or give --usd-per-hour.")
    preset = presets[hardware]
    return {
        f"{level} ${usd}/h": usd
        for level, usd in (("low", preset.low), ("typical", preset.typical), ("high", preset.high))
    }


def _volume(fleets: dict[str, Fleet], requests_per_day: str | None, utilisation: str | None) -> Decimal | None:
    if requests_per_day is not None:
        return _number("requests-per-day", requests_per_day, Decimal(0))
    if utilisation is None:
        return None
    fleet = next(iter(fleets.values()))
    return _number("utilisation", utilisation, Decimal(0)) * (fleet.capacity_per_s or 0) * DAY_S


def _number(option: str, text: str, least: Decimal | None = None) -> Decimal:
    """A figure that is at least `least`, or else more than 0."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        _fail(f"--{option} '{text}' is no number.")
    if not value.is_finite() or (value < least if least is not None else value <= 0):
        _fail(f"--{option} must be {'more than 0' if least is None else f'at least {least}'}, not {text}.")
    return value


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    sys.exit(2)
