"""`turntable costs breakeven`: break-even volume from your own figures; needs no gateway and no network."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.clock import parse_moment
from gateway.costs.breakeven import DAY_S, BreakEven, Fleet, break_even, payback_days
from gateway.costs.plan import read_presets
from gateway.costs.prices.rates import PricedTokens, rates_for
from gateway.money import MOST_USD_PER_HOUR
from turntable.console import Column, CommandError, Table, figures, print_json, say, show
from turntable.console import usd as format_usd
from turntable.options import DEFAULT_DATA_DIR, AsJson

_THOUSAND = 1000
_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}


def breakeven(
    capacity_per_s: Annotated[
        str | None,
        typer.Option(help="Requests per second that one engine serves, from a load test."),
    ] = None,
    usd_per_hour: Annotated[str | None, typer.Option(help="Price of one engine per hour.")] = None,
    hardware: Annotated[
        str | None,
        typer.Option(help="Or a preset, like h100, with a low, typical and high price."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Prompt tokens of a request, on average.")] = 1024,
    output_tokens: Annotated[int, typer.Option(min=0, help="Output tokens of a request, on average.")] = 128,
    cached_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the prompt that is cached.")] = 0,
    vs: Annotated[list[str] | None, typer.Option(help="Compare with provider:model; repeatable.")] = None,
    requests_per_day: Annotated[str | None, typer.Option(help="Expected volume, like 3000 or 100000/month.")] = None,
    utilisation: Annotated[str | None, typer.Option(help="Or the volume as a share of one engine's capacity.")] = None,
    investment_usd: Annotated[str, typer.Option(help="One-time cost of training, data and labour.")] = "0",
    peak_to_mean: Annotated[str, typer.Option(help="Peak load over the daily mean.")] = "1",
    min_replicas: Annotated[int, typer.Option(min=1, help="Engines that run even without load.")] = 1,
    batch: Annotated[bool, typer.Option("--batch", help="Compare with batch prices.")] = False,
    on: Annotated[str | None, typer.Option(help="Use the prices of this time.", show_default="now")] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="The data directory, with prices.toml.")
    ] = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Find the volume from which your own engines cost less than a frontier API, in steps of whole engines."""
    rates = _hourly(usd_per_hour, hardware)
    tokens = PricedTokens(prompt_tokens, output_tokens, Decimal(str(cached_share)) * prompt_tokens)
    capacity, peak = _capacity(capacity_per_s), _number("peak-to-mean", peak_to_mean, Decimal(1))
    fleets = {name: Fleet(usd, capacity, peak, min_replicas) for name, usd in rates.items()}
    volume = _volume(fleets, requests_per_day, utilisation)
    invested = _number("investment-usd", investment_usd, Decimal(0))
    charges = _charges(data_dir, vs, tokens, parse_moment(on), batch=batch)
    rows = [
        _row(fleet_name, fleet, name, usd, volume, invested)
        for fleet_name, fleet in fleets.items()
        for name, (usd, _) in charges.items()
    ]
    if as_json:
        print_json({"data": rows})
        return
    for engine in fleets:
        show(_table(engine, [row for row in rows if row["engine"] == engine]))
    for sentence in (_capacity_words(fleets), _others_entries(charges), *_answers(rows, volume, fleets)):
        if sentence:
            say(sentence)


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


def _table(engine: str, rows: list[dict[str, Any]]) -> Table:
    heads = ["per 1,000", "break-even", "of capacity"]
    several = any(row.get("replicas", 1) > 1 for row in rows)
    if any("replicas" in row for row in rows):
        heads += [*(["engines"] if several else []), "own per day", "API per day", "paid back"]
    table = Table(Column("API"), *figures(*heads), title=f"Own engine at {engine}")
    for row in rows:
        never = row["requests_per_day"] is None
        pays = "never" if never else f"{row['requests_per_day']:,.0f}"
        share = "" if row["share_of_capacity"] is None else f"{row['share_of_capacity']:.1%}"
        cells = [row["comparator"], f"${row['usd_per_thousand']:,.4f}", pays, share]
        if "replicas" in row:
            cells += [
                *([f"{row['replicas']:,}"] if several else []),
                format_usd(row["own_usd_per_day"], 2),
                format_usd(row["elsewhere_usd_per_day"], 2),
                _paid_back(row["payback_days"]),
            ]
        table.add(*cells)
    return table


def _paid_back(days: float | None) -> str:
    if days is None:
        return "never"
    return f"after {days:,.1f} days" if days else "at once"


def _capacity_words(fleets: dict[str, Fleet]) -> str:
    floors = {name: fleet.floor_usd_per_request() for name, fleet in fleets.items()}
    words = ", ".join(f"${(floor or 0) * _THOUSAND:,.4f} at {name}" for name, floor in floors.items())
    full = next(iter(fleets.values())).requests_per_day or 0
    return (
        "API prices are per 1,000 requests; break-even is in requests per day. One engine is full at "
        f"{full:,.0f} requests per day; 1,000 then cost {words}."
    )


def _others_entries(charges: dict[str, tuple[Decimal, str]]) -> str:
    used = [f"{name} at the price of {entry}" for name, (_, entry) in charges.items() if entry != name]
    return f"Priced by the nearest entry of the price data: {', '.join(used)}." if used else ""


def _answers(rows: list[dict[str, Any]], volume: Decimal | None, fleets: dict[str, Fleet]) -> Iterator[str]:
    """The conclusion, one sentence for each price of the engine."""
    for engine in fleets:
        mine = [row for row in rows if row["engine"] == engine]
        at = f"With an engine at {engine}"
        if volume is None:
            pays = [row for row in mine if row["requests_per_day"] is not None]
            dearest = min(pays, key=lambda row: row["requests_per_day"], default=None)
            yield (
                f"{at}: never breaks even, at any volume."
                if dearest is None
                else (
                    f"{at}: breaks even from {dearest['requests_per_day']:,.0f} requests per day (instead of "
                    f"{dearest['comparator']})."
                )
            )
            continue
        own, cheapest = mine[0]["own_usd_per_day"], min(mine, key=lambda row: row["elsewhere_usd_per_day"])
        beaten = [row["comparator"] for row in mine if own < row["elsewhere_usd_per_day"]]
        there = f"{cheapest['comparator']} ({format_usd(cheapest['elsewhere_usd_per_day'], 2)} per day"
        what = f"{at}, at {volume:,.0f} requests per day:"
        if len(beaten) == len(mine):
            yield f"{what} your own engine is cheaper: {format_usd(own, 2)} per day; the cheapest API is {there})."
        else:
            besides = f"; it costs less than {', '.join(beaten)}" if beaten else ""
            yield f"{what} stay with {there}; your own engine costs {format_usd(own, 2)}{besides})."


def _charges(
    data_dir: Path, vs: list[str] | None, tokens: PricedTokens, at: datetime, *, batch: bool
) -> dict[str, tuple[Decimal, str]]:
    """USD of one request by comparator, with the entry of the price data that it is from."""
    from gateway.costs.comparators import factor_for, read_factors
    from gateway.costs.prices.book import PriceBook
    from gateway.costs.prices.update import DEFAULT_COMPARISON

    book, factors, found = PriceBook.open(data_dir), read_factors(), {}
    for name in vs or DEFAULT_COMPARISON:
        scaled = tokens.scaled(factor_for(name, factors).typical)
        listing = book.find(name)
        charge = rates_for(listing.tiers(at, batch=batch), scaled.prompt).charge_usd(scaled)
        found[name] = charge, listing.entry
    return found


def _hourly(usd_per_hour: str | None, hardware: str | None) -> dict[str, Decimal]:
    if (usd_per_hour is None) == (hardware is None):
        raise CommandError("Give the engine's price with --usd-per-hour, or with --hardware.")
    if usd_per_hour is not None:
        price = _number("usd-per-hour", usd_per_hour)
        if price > MOST_USD_PER_HOUR:
            raise CommandError(
                f"--usd-per-hour {usd_per_hour} is above ${MOST_USD_PER_HOUR:,}; give one engine's price per hour."
            )
        return {f"${usd_per_hour}/h": price}
    presets = read_presets()
    if hardware not in presets:
        raise CommandError(
            f"There is no hardware preset '{hardware}'; use {', '.join(presets)}, or give --usd-per-hour."
        )
    preset = presets[hardware]
    return {
        f"{level} ${usd}/h": usd
        for level, usd in (("low", preset.low), ("typical", preset.typical), ("high", preset.high))
    }


def _volume(fleets: dict[str, Fleet], requests_per_day: str | None, utilisation: str | None) -> Decimal | None:
    if requests_per_day is not None:
        count, _, period = requests_per_day.partition("/")
        if period not in ("", *_DAYS):
            raise CommandError(
                f"--requests-per-day '{requests_per_day}' is not a volume; write it like 3000 or 100000/month."
            )
        return _number("requests-per-day", count.replace(",", ""), Decimal(0)) / _DAYS.get(period, 1)
    if utilisation is None:
        return None
    fleet = next(iter(fleets.values()))
    return _number("utilisation", utilisation, Decimal(0)) * (fleet.capacity_per_s or 0) * DAY_S


def _capacity(text: str | None) -> Decimal:
    if text is None:
        raise CommandError(
            "Give --capacity-per-s, the requests per second that one engine serves: 23.6 is Qwen3-8B on an H100 with "
            "1,024 tokens in and 128 out. Measure your own engine with `turntable loadtest capacity "
            "--models base --p99-ttft-ms 2000 --p99-itl-ms 50`."
        )
    return _number("capacity-per-s", text)


def _number(option: str, text: str, least: Decimal | None = None) -> Decimal:
    """A number that is at least `least`, or above 0 when there is no `least`."""
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise CommandError(f"--{option} '{text}' is not a number.") from error
    if not value.is_finite() or (value < least if least is not None else value <= 0):
        raise CommandError(f"--{option} must be {'above 0' if least is None else f'at least {least}'}, not {text}.")
    return value
