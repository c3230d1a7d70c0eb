"""Bringing the price data up to date: only when an operator asks, and checked before it replaces anything."""

import os
from pathlib import Path

import httpx
from genai_prices.update_prices import DEFAULT_UPDATE_URL

from gateway.prices.book import SNAPSHOT_FILE
from gateway.prices.catalogue import parse_snapshot
from gateway.prices.listing import PriceError

DEFAULT_URL: str = DEFAULT_UPDATE_URL
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_MOST_BYTES = 64 << 20


def update_snapshot(data_dir: Path, *, url: str, source: Path | None) -> None:
    """Put newer price data into the data directory; raises `PriceError`, and then the old data is still there."""
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
        raise PriceError(f"{url} answers with more than {_MOST_BYTES >> 20} MiB, which is no price data.")
    return response.content
