"""A gateway whose work has a price: a generated token costs a thousandth of a cent, a prompt token a tenth of that."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from gateway.costs.evidence import CostEvidenceStore, EvidenceKind
from gateway.database import open_database
from gateway.settings import Settings
from loadtest.mock_engine.app import MockServer
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready
from tests.waiting import wait_until

ANSWER_NANO_USD, PROMPT_NANO_USD = 10_000, 1_000
WEIGHTS = {
    "prompt_ps": PROMPT_NANO_USD * 10**6,
    "cached_ps": 0,
    "output_ps": ANSWER_NANO_USD * 10**6,
    "error_share": 0.1,
    "r_squared": 0.9,
    "batches": 10,
    "concurrency": 4,
    "model": "base",
}


@contextmanager
def priced_gateway(data_dir: Path, engine: MockServer, **settings: object) -> Iterator[Attached]:
    """A gateway of its own over a mock engine, ready and with a price."""
    wanted = Settings(data_dir=data_dir, engine_usd_per_hour=Decimal("3.6"), **settings)  # type: ignore[arg-type]
    data_dir.mkdir(exist_ok=True)
    database = open_database(wanted.database)
    store = CostEvidenceStore(database)
    if store.newest(EvidenceKind.WEIGHTS) is None:
        store.add(EvidenceKind.WEIGHTS, WEIGHTS)
    database.dispose()
    with running_gateway(wanted, engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, data_dir)
        wait_until_priced(gateway)
        yield gateway
        gateway.http.close()


def wait_until_priced(gateway: Attached) -> None:
    """Return once requests are told what they cost."""
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    told = {"x-turntable-cost": "1"}

    def is_priced() -> bool:
        answer = gateway.http.post("/v1/chat/completions", json=body, headers=told)
        return "x-turntable-cost-usd" in answer.headers

    wait_until(is_priced, poll_s=0.1)


@dataclass(frozen=True)
class Key:
    """A key of a gateway, and requests with it."""

    gateway: Attached
    id: str
    headers: dict[str, str]

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """One request with this key."""
        return self.gateway.http.post(path, json=body, headers=self.headers)

    def at(self, gateway: Attached) -> "Key":
        """The same key, sent to another gateway."""
        return replace(self, gateway=gateway)


def new_key(gateway: Attached, **fields: object) -> Key:
    """A key with these limits and budgets."""
    made = gateway.http.post("/admin/v1/keys", json={"name": "k"} | fields)
    assert made.status_code == httpx.codes.CREATED, made.text
    document = made.json()
    return Key(gateway, document["id"], {"authorization": f"Bearer {document['key']}"})
