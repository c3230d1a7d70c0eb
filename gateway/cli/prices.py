"""`turntable prices`: list, explain, update and compare the prices of frontier APIs."""

from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.clock import parse_moment
from gateway.costs.prices.book import PRICE_FILE, PriceBook
from gateway.costs.prices.rates import Listing, PriceError, PriceTier
from gateway.costs.prices.update import DEFAULT_COMPARISON, DEFAULT_URL, changed_prices, update_snapshot
from gateway.errors import GatewayError
from turntable.console import App, Table, figures, print_json, say
from turntable.console import show as show_table
from turntable.options import DEFAULT_DATA_DIR, AsJson

app = App(
    errors=(GatewayError,), help="List, explain, update and compare the prices of frontier APIs.", no_args_is_help=True
)
DataDir = Annotated[
    Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="The data directory, with prices.toml and updates.")
]
On = Annotated[str | None, typer.Option(help="At this time, like 2027-01-01 or 2026-11-25T02:00Z.", show_default="now")]
_BRACKETS = "; figures in brackets: no price of its own, billed as other input"


@app.command("list")
def list_prices(
    text: Annotated[str | None, typer.Argument(help="Part of the name; the default comparison when omitted.")] = None,
    on: On = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List prices per million tokens of the default comparison, or of all models whose name contains a text."""
    book, at = PriceBook.open(data_dir), parse_moment(on)
    if text is None:
        names = sorted({*DEFAULT_COMPARISON, *book.file_names})
    else:
        names = [name for name in book.names() if text.lower() in name.lower()]
    if text and not names:
        raise PriceError(f"No model's name contains '{text}'; add your own prices in {PRICE_FILE}.")
    rows = [row for name in names for row in rows_of(book.find(name), at)]
    if as_json:
        print_json({"on": at.isoformat(), "age": book.age(today()), "data": rows})
        return
    show_table(as_table(rows))
    say(f"USD per million tokens at {at:%Y-%m-%d %H:%M} UTC{_BRACKETS}. {book.age(today())}")
    if text is None:
        say(f"{len(book.names()):,} models are known: `turntable prices list PART-OF-NAME`.")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="provider:model, like openai:gpt-6.1-terra.")],
    on: On = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Show one price: tiers, batch price, announced changes, source, when it was checked, what it leaves out."""
    book, at = PriceBook.open(data_dir), parse_moment(on)
    listing = book.find(model)
    later = [datetime.combine(day, time(), UTC) for day in listing.changes() if day > at.date()]
    rows = [row for then in (at, *later) for row in rows_of(listing, then, batch=True)]
    about = {
        "model": listing.name,
        "priced_as": listing.entry,
        "origin": listing.origin,
        "source": listing.source,
        "checked_on": str(listing.checked_on or "not noted"),
        "peak_hours": listing.has_peak_hours,
        "note": listing.note,
        "age": book.age(today()),
    }
    if as_json:
        print_json(about | {"data": rows})
        return
    show_table(as_table(rows))
    say(f"USD per million tokens{_BRACKETS}.")
    for name, value in about.items():
        say(f"{name.replace('_', ' ')}: {value}")


@app.command()
def update(
    from_file: Annotated[Path | None, typer.Option("--from", help="Use this file instead of fetching one.")] = None,
    url: Annotated[str, typer.Option(help="URL of the price data.")] = DEFAULT_URL,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Fetch the newest price data of genai-prices, check it, and store it in the data directory."""
    before = PriceBook.open(data_dir)
    update_snapshot(data_dir, url=url, source=from_file)
    after = PriceBook.open(data_dir)
    changes = list(changed_prices(before, after, parse_moment(None)))
    say(f"{len(after.names()):,} models; {len(changes):,} prices changed. {after.age(today())}")


@app.command()
def diff(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Compare your prices and updates with the price data bundled with this version."""
    at, bundled = parse_moment(on), PriceBook.shipped()
    changes = list(changed_prices(bundled, PriceBook.open(data_dir), at))
    if as_json:
        print_json({"on": at.isoformat(), "data": changes})
        return
    table = Table("model", "bundled", "now")
    for change in changes:
        table.add(change["model"], change["before"], change["after"])
    if changes:
        show_table(table)
    else:
        say("No price differs from the bundled data.")


def rows_of(listing: Listing, at: datetime, *, batch: bool = False) -> list[dict[str, Any]]:
    """The rates of a listing at a moment, one row per tier; an unpriced one names the reason under `unpriced`."""
    rows = []
    for processing in ("standard", "batch") if batch else ("standard",):
        about = {"model": listing.name, "from": at.date().isoformat(), "processing": processing}
        try:
            tiers = listing.tiers(at, batch=processing == "batch")
        except PriceError as error:
            rows.append(about | {"unpriced": str(error)})
            continue
        rows += [about | rates_of(tier) | {"origin": listing.origin} for tier in tiers]
    return rows


def rates_of(tier: PriceTier) -> dict[str, Any]:
    """The prices of a tier, for JSON and for tables."""
    kinds = ("input", "cached_read", "cache_write", "cache_write_1h", "output", "reasoning")
    figures = {kind: getattr(tier.rates, kind) for kind in kinds}
    shown = {kind: None if rate is None else f"{rate.normalize():f}" for kind, rate in figures.items()}
    return {"above_prompt_tokens": tier.above_prompt_tokens, **shown}


def as_table(rows: list[dict[str, Any]]) -> Table:
    """Prices as a table, with the columns `from` and `for` only where they differ."""
    various = [name for name in ("from", "processing") if len({row[name] for row in rows}) > 1]
    named = ("model", *({"processing": "for"}.get(name, name) for name in various))
    table = Table(*named, *figures("prompts over", "input", "cached", "cache write", "output"))
    for row in rows:
        head = (row["model"], *(row[name] for name in various))
        as_input = f"({row.get('input')})"
        if "unpriced" in row:
            table.add(*head, "", "unpriced", "", "", "")
            continue
        over = f"{row['above_prompt_tokens']:,}" if row["above_prompt_tokens"] else ""
        caches = (row["cached_read"] or as_input, row["cache_write"] or as_input)
        table.add(*head, over, row["input"], *caches, row["output"])
    return table


def today() -> date:
    """Today in UTC."""
    return datetime.now(UTC).date()
