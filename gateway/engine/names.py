"""What engines are called: in metrics, in the ledger, on the bill, in `costs.toml`."""

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.ledger.gateways import gateway_id
from gateway.settings import Settings

_LONGEST = 64


def engine_names(settings: Settings, urls: Sequence[str], *, is_managed: bool) -> list[str]:
    """A name for each engine: `engine-0`, `engine-1` … with the database in the data directory.

    In any other, which several gateways may share, an engine has the same name in all of them, and no two engines have
    one: attached ones are called by host and port, a managed one by the id of its gateway.
    """
    if not settings.database_url:
        return [f"engine-{number}" for number in range(len(urls))]
    if is_managed:
        return [f"engine-{gateway_id(settings.ledger_dir)[:8]}"]
    return [_address(url) for url in urls]


def _address(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    name = f"{parts.hostname}:{port}{parts.path.rstrip('/').replace('/', '_')}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
