"""SQL is never made of what a client sends: every text that reaches the database, on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, inspect, text

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.databases import Postgres
from tests.gateway.conftest import Attached, running_gateway, wait_until_ready
from tests.waiting import eventually

PAYLOADS = [
    *(
        "'",
        '"',
        "' OR '1'='1",
        "'; DROP TABLE usage_ledger; --",
        "1); DELETE FROM adapter_versions; --",
        "\\",
        "%",
        "_",
    ),
    *(
        "${jndi:ldap://x}",
        "{{7*7}}",
        ":name",
        "%(name)s",
        "$[0]",
        "NULL",
        "\x00",
        "x\x00y",
        "\u202e",
        "😀",
        "1E999",
        "-1",
    ),
]
KEPT_BY_ITSELF = {"usage_ledger", "usage_hours", "engine_hours", "engine_runs", "adapter_loads"}
HI: Any = [{"role": "user", "content": "hi"}]


class Database:
    """A gateway on one kind of database, and the database itself."""

    def __init__(self, gateway: Attached, url: str) -> None:
        self.gateway = gateway
        self._engine = create_engine(url)

    def rows(self) -> dict[str, int]:
        """How many rows every table has; those of the ledger once all requests have ended."""
        names = inspect(self._engine).get_table_names()
        with self._engine.connect() as connection:
            return {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    data_dir: Path = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{data_dir / 'turntable.db'}"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.empty()
    settings = Settings(data_dir=data_dir, database_url=url)
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as address:
        wait_until_ready(address)
        gateway = Attached(address, engine, data_dir)
        database = Database(gateway, url)
        yield database
        database.close()
        gateway.http.close()


def attacks(payload: str) -> list[tuple[str, str, dict[str, Any]]]:
    """One request for every place where a client's text could meet SQL."""
    query: list[tuple[str, dict[str, Any]]] = [
        ("/admin/v1/audit", {"subject": payload}),
        ("/admin/v1/audit", {"limit": payload}),
        ("/admin/v1/usage", {"group_by": payload}),
        ("/admin/v1/usage", {"since": payload}),
        ("/admin/v1/usage", {"until": payload}),
        ("/admin/v1/costs", {"group_by": payload}),
        ("/admin/v1/costs", {"vs": payload}),
        ("/admin/v1/costs", {"idle": payload}),
        ("/admin/v1/costs", {"usd_per_hour": payload}),
        ("/admin/v1/keys", {"tenant": payload}),
    ]
    quoted = httpx.URL("http://x", params={"q": payload}).query.decode().removeprefix("q=").replace("+", "%20")
    folders = ("adapters", "keys", "tenants", "costs/evidence")
    found: list[tuple[str, str, dict[str, Any]]] = [("GET", path, {"params": params}) for path, params in query]
    found += [("GET", f"/admin/v1/{folder}/{quoted}", {}) for folder in folders]
    found += [("GET", f"/v1/models/{quoted}", {}), ("DELETE", f"/admin/v1/keys/{quoted}", {})]
    found += [("POST", f"/admin/v1/adapters/{quoted}/promote", {"json": {"version": payload}})]
    found += [("PUT", f"/admin/v1/tenants/{quoted}", {"json": {"rpm": 1}})]
    found += [("POST", "/admin/v1/keys", {"json": {"name": "x", "tenant": payload}})]
    found += [("POST", "/admin/v1/adapters", {"json": {"name": payload, "source": payload}})]
    found += [("POST", "/v1/chat/completions", {"json": {"model": payload, "messages": HI, "user": payload}})]
    return found


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_text_of_a_client_becomes_sql(database: Database, payload: str) -> None:
    """The class of CVE-2026-42208 (a bearer key in a query) and its like in every parameter, path and body."""
    before = database.rows()
    for method, path, options in attacks(payload):
        answer = database.gateway.http.request(method, path, **options)
        assert answer.status_code < 500, (method, path, options, answer.text)
        assert "sql" not in answer.text.lower().replace(payload.lower(), ""), answer.text
    after = database.rows()
    grown = {name for name in before if after[name] != before[name]}
    assert grown <= KEPT_BY_ITSELF, grown
    assert all(after[name] >= before[name] for name in before)


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_key_becomes_sql(database: Database, header: str, payload: str) -> None:
    """CVE-2026-42208 / GHSA-r75f-5x8p-qvmc: the bearer key was put into the query that looked it up."""
    value = ("Bearer tt-" if header == "authorization" else "tt-") + payload.replace("\x00", "0")
    answer = httpx.get(f"{database.gateway.url}/v1/models", headers={header.encode(): value.encode()})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_what_a_client_calls_its_request_is_stored_to_the_letter(database: Database) -> None:
    ids = [payload for payload in PAYLOADS if payload.isascii() and payload.isprintable() and " " not in payload]
    for name in ids:
        body = {"model": "base", "messages": HI, "user": name}
        answer = database.gateway.http.post("/v1/chat/completions", json=body, headers={"x-request-id": name})
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, name)
    engine = database._engine

    def stored() -> bool:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT client_request_id FROM usage_ledger")).scalars().all()
        return set(ids) <= set(found)

    assert eventually(stored)
