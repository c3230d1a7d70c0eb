"""Update of the price data on an operator's command, validated before it replaces anything; diff of price books."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
from genai_prices.update_prices import DEFAULT_UPDATE_URL

from gateway.costs.prices.book import SNAPSHOT_FILE, PriceBook
from gateway.costs.prices.catalogue import parse_snapshot
from gateway.costs.prices.rates import PriceError, PriceTier

DEFAULT_COMPARISON = ("openai:gpt-6.1-terra", "anthropic:claude-sonnet-5-5", "google:gemini-3.8-flash")
"""Default comparators of `turntable costs`: the mid-range models of the three largest providers."""
GONE = "unpriced"
DEFAULT_URL: str = DEFAULT_UPDATE_URL
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_MOST_BYTES = 64 << 20


def update_snapshot(data_dir: Path, *, url: str, source: Path | None) -> None:
    """Store newer price data in the data directory; on `PriceError` the old data stays."""
    content = _read(source) if source else _fetch(url)
    parse_snapshot(content)
    target = data_dir / SNAPSHOT_FILE
    part = target.with_suffix(".part")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, target)  # noqa: PTH105  # atomic also where the target exists
    except OSError as error:
        raise PriceError(f"{target} cannot be written ({error.strerror}).") from error


def changed_prices(before: PriceBook, after: PriceBook, at: datetime) -> Iterator[dict[str, str]]:
    """Yield the models whose price differs, with both prices in words."""
    for name in sorted({*before.names(), *after.names()}):
        old, new = _price(before, name, at), _price(after, name, at)
        if old != new:
            yield {"model": name, "before": _words(old), "after": _words(new)}


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise PriceError(f"{source} cannot be read ({error.strerror}).") from error


def _fetch(url: str) -> bytes:
    try:
        response = httpx.get(url, timeout=_TIMEOUT, follow_redirects=True)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PriceError(
            f"The prices could not be fetched from {url} ({error}); give a file with --from. The old ones stay."
        ) from error
    if len(response.content) > _MOST_BYTES:
        raise PriceError(f"{url} answers with more than {_MOST_BYTES >> 20} MiB, which is not price data.")
    return response.content


def _price(book: PriceBook, name: str, at: datetime) -> tuple[PriceTier, ...]:
    try:
        return book.find(name).tiers(at)
    except PriceError:
        return ()


def _words(tiers: tuple[PriceTier, ...]) -> str:
    if not tiers:
        return GONE
    rates = tiers[0].rates
    cached = "" if rates.cached_read is None else f" (cached {rates.cached_read.normalize():f})"
    more = f", {len(tiers) - 1} more by length" if len(tiers) > 1 else ""
    return f"{rates.input.normalize():f}{cached} in, {rates.output.normalize():f} out{more}"
