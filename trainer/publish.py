"""Handing a finished run to a gateway over HTTP."""

from pathlib import Path

from adapters import AdapterError, PublishedVersion
from adapters.connection import connect
from trainer.errors import RunError


def publish(directory: Path, name: str, *, gateway_url: str, data_dir: Path, promote: bool) -> PublishedVersion:
    """Upload a run directory as a new version of `name` and, when asked, make it live.

    Raises `RunError` in the gateway's own words; the run directory stays, so publishing can be tried again.
    """
    try:
        with connect(gateway_url, data_dir) as admin:
            published = admin.publish(name, directory)
            if promote:
                admin.promote(name, published.version)
    except AdapterError as error:
        raise RunError(f"{directory} is trained but not published: {error}") from error
    return published
