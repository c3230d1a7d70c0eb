"""`turntable prices`: what the price book knows, how old it is, and bringing it up to date when asked to."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from gateway.clock import parse_moment
from gateway.costs.prices.book import PRICE_FILE, PriceBook
from gateway.costs.prices.rates import Listing, PriceError, PriceTier
from gateway.costs.prices.update import DEFAULT_COMPARISON, DEFAULT_URL, changed_prices, update_snapshot
from gateway.errors import GatewayError
from turntable.console import console
from turntable.console import show as show_table

app = typer.Typer(no_args_is_help=True, help="Prices of frontier APIs: list, explain, update, compare.")
DataDir = Annotated[Path, typer.Option(envvar="TURNTABLE_DATA_DIR", help="Where prices.toml and updates are kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
On = Annotated[str | None, typer.Option(help="At this moment, like 2027-01-01 or 2026-11-25T02:00Z; now by default.")]
_DATA = Path("var")
_BRACKETS = "; in brackets: has no price of its own, and costs what other input does"


@app.command("list")
def list_prices(
    text: Annotated[str | None, typer.Argument(help="A part of the name; the default comparison when missing.")] = None,
    on: On = None,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """Prices per million tokens with their origin, of all models whose name contains a text."""
    with one_sentence():
        book, at = PriceBook.open(data_dir), parse_moment(on)
        if text is None:
            names = sorted({*DEFAULT_COMPARISON, *book.file_names})
        else:
            names = [name for name in book.names() if text.lower() in name.lower()]
        if text and not names:
            raise PriceError(f"No known model has '{text}' in its name; {PRICE_FILE} takes prices of your own.")
        rows = [row for name in names for row in rows_of(book.find(name), at)]
        if as_json:
            console().print_json(data={"on": at.isoformat(), "age": book.age(today()), "data": rows})
            return
        show_table(as_table(rows))
        console().print(f"USD per million tokens at {at:%Y-%m-%d %H:%M} UTC{_BRACKETS}. {book.age(today())}")
        if text is None:
            console().print(f"{len(book.names()):,} models are known: `turntable prices list PART-OF-NAME`.")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="provider:model, like openai:gpt-6.1-terra.")],
    on: On = None,
    data_dir: DataDir = _DATA,
    as_json: AsJson = False,
) -> None:
    """Everything about one price: tiers, batches, changes to come, its source, when it was checked, what it omits."""
    with one_sentence():
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
            console().print_json(data=about | {"data": rows})
            return
        show_table(as_table(rows))
        console().print(f"USD per million tokens{_BRACKETS}.")
        for name, value in about.items():
            console().print(f"[bold]{name.replace('_', ' ')}[/] {value}", highlight=False)


@app.command()
def update(
    from_file: Annotated[Path | None, typer.Option("--from", help="Take this file instead of fetching one.")] = None,
    url: Annotated[str, typer.Option(help="Where the data is fetched from.")] = DEFAULT_URL,
    data_dir: DataDir = _DATA,
) -> None:
    """Fetch the newest price data of genai-prices, check it, and keep it in the data directory."""
    with one_sentence():
        before = PriceBook.open(data_dir)
        update_snapshot(data_dir, url=url, source=from_file)
        after = PriceBook.open(data_dir)
        changes = list(changed_prices(before, after, parse_moment(None)))
        console().print(f"{len(after.names()):,} models; {len(changes):,} differ from before. {after.age(today())}")


@app.command()
def diff(
    data_dir: DataDir = _DATA,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """What the operator's prices and updates changed against the data that came with this version."""
    with one_sentence():
        at, bundled = parse_moment(on), PriceBook.shipped()
        changes = list(changed_prices(bundled, PriceBook.open(data_dir), at))
        if as_json:
            console().print_json(data={"on": at.isoformat(), "data": changes})
            return
        table = Table("model", "bundled", "now", box=box.SIMPLE_HEAD)
        for change in changes:
            table.add_row(change["model"], change["before"], change["after"])
        if changes:
            show_table(table)
        else:
            console().print("No price differs from the bundled data.")


def rows_of(listing: Listing, at: datetime, *, batch: bool = False) -> list[dict[str, Any]]:
    """The rates of a listing at a moment; what is unpriced says so."""
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
    """The figures of a tier, as JSON and as cells."""
    kinds = ("input", "cached_read", "cache_write", "cache_write_1h", "output", "reasoning")
    figures = {kind: getattr(tier.rates, kind) for kind in kinds}
    shown = {kind: None if rate is None else f"{rate.normalize():f}" for kind, rate in figures.items()}
    return {"above_prompt_tokens": tier.above_prompt_tokens, **shown}


def as_table(rows: list[dict[str, Any]]) -> Table:
    """Rates as people read them."""
    table = Table(box=box.SIMPLE_HEAD)
    various = [name for name in ("from", "processing") if len({row[name] for row in rows}) > 1]
    for name in ("model", *various):
        table.add_column({"processing": "for"}.get(name, name))
    for name in ("prompts over", "input", "cached", "cache write", "output"):
        table.add_column(name, justify="right")
    for row in rows:
        head = (row["model"], *(row[name] for name in various))
        as_input = f"({row.get('input')})"
        if "unpriced" in row:
            table.add_row(*head, "", "unpriced", "", "", "")
            continue
        over = f"{row['above_prompt_tokens']:,}" if row["above_prompt_tokens"] else ""
        caches = (row["cached_read"] or as_input, row["cache_write"] or as_input)
        table.add_row(*head, over, row["input"], *caches, row["output"])
    return table


def today() -> date:
    """Today in UTC."""
    return datetime.now(UTC).date()


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error into its one sentence and exit code 2."""
    try:
        yield
    except GatewayError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
