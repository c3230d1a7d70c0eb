"""The admin surface for keys, which routes a key opens, and what a key that may not use a model gets to see of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from openai import AuthenticationError, NotFoundError, OpenAI, PermissionDeniedError
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from typer.testing import CliRunner

from gateway import app as composition
from gateway.cli.costs import app as costs_app
from gateway.inference.formats import APIS
from gateway.metering import SHADOW_KEY
from gateway.server.middleware import with_middleware
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, Attached
from tests.gateway.releases.conftest import gateway_with_versions
from tests.waiting import eventually

KEYS, TENANTS = "/admin/v1/keys", "/admin/v1/tenants"
OPEN = {"/health", "/ready", "/docs", "/openapi.json"}
OF_INFERENCE = {*APIS, "/v1/models", "/v1/models/{name:path}", "/v1/feedback"}
OF_METRICS = {"/metrics"}
OF_USAGE = {"/admin/v1/usage", "/admin/v1/usage/rows", "/admin/v1/costs"}
HI: Any = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": HI},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}


class Gateway:
    """A gateway with versions of `mine`, and its FastAPI part to look at."""

    def __init__(self, attached: Attached, rest: FastAPI, clients: ExitStack) -> None:
        self.attached, self.rest, self.admin = attached, rest, attached.http
        self._clients = clients

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.admin.post(KEYS, json={"name": "triage"} | fields)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def client(self, **fields: Any) -> httpx.Client:
        """An HTTP client with a new key."""
        return self.client_with(self.create(**fields)["key"])

    def client_with(self, key: str | None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return self._clients.enter_context(httpx.Client(base_url=self.attached.url, headers=headers, timeout=20))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for all: its canary answers every request of `mine`, its shadow is asked again of each."""
    built: list[FastAPI] = []

    def look(rest: FastAPI, stack: list[Middleware]) -> ASGIApp:
        built.append(rest)
        return with_middleware(rest, stack)

    data_dir = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as clients:
        patch.setattr(composition, "with_middleware", look)
        with gateway_with_versions(data_dir, MockSettings(tokens=2)) as attached:
            found = Gateway(attached, built[0], clients)
            for split in ({"canary": 2}, {"shadow": 3}):
                for name, version in split.items():
                    body = {"version": version, "percent": 100}
                    assert attached.http.post(f"/admin/v1/adapters/mine/{name}", json=body).is_success
            yield found


def every_route(rest: FastAPI) -> list[tuple[str, str]]:
    """Method and path of everything that the gateway answers."""
    found = [("POST", path) for path in APIS]
    for route in rest.routes:
        path, methods = getattr(route, "path", None), getattr(route, "methods", None)
        assert path, f"{route} is no plain route: say here who may use it"
        assert methods, f"{route} is no plain route: say here who may use it"
        found += [(method, path) for method in methods - {"HEAD"}]
    return found


def test_every_route_demands_its_scope_and_none_was_forgotten(gateway: Gateway) -> None:
    nobody = gateway.client_with(None)
    inference, usage, metrics = gateway.client(), gateway.client(scopes=["usage"]), gateway.client(scopes=["metrics"])
    routes = every_route(gateway.rest)
    assert {path for _, path in routes} >= OPEN | OF_INFERENCE | OF_USAGE | OF_METRICS | {
        KEYS,
        TENANTS,
        "/v1/load_lora_adapter",
    }
    for method, path in routes:
        if path in OPEN:
            continue
        url = path.replace("{name:path}", "base").replace("{", "").replace("}", "")

        def status(client: httpx.Client, method: str = method, url: str = url) -> tuple[int, str | None]:
            broken = b"" if method == "GET" else b"{"  # the key is looked at before the body
            answer = client.request(method, url, content=broken, headers={"content-type": "application/json"})
            if "json" not in answer.headers["content-type"] or "ndjson" in answer.headers["content-type"]:
                return answer.status_code, None
            if "anthropic" in answer.text or answer.json().get("type") == "error":  # Anthropic's errors have no code
                return answer.status_code, answer.json()["error"]["type"]
            return answer.status_code, (answer.json().get("error") or {}).get("code")

        refused = [(403, "missing_scope"), (403, "permission_error")]
        assert status(nobody) in [(401, "missing_api_key"), (401, "authentication_error")], f"{method} {path}"
        allowed = [path in OF_INFERENCE, path in OF_USAGE, path in OF_METRICS]
        for client, may in zip((inference, usage, metrics), allowed, strict=True):
            assert (status(client) in refused) is not may, f"{method} {path}"
    guarded = [r for r in gateway.rest.routes if isinstance(r, APIRoute) and r.path not in OPEN]
    assert all(route.dependant.dependencies for route in guarded)


@pytest.mark.parametrize("path", list(ASKED))
def test_what_a_key_may_not_use_is_answered_byte_by_byte_like_what_does_not_exist(gateway: Gateway, path: str) -> None:
    digest = gateway.admin.get("/admin/v1/adapters/mine").json()["versions"][0]["digest"]
    client = gateway.client(adapters=["other-*"])
    for model in ("mine", "mine@v3", f"mine@{digest[:12]}", "base"):
        assert gateway.admin.post(path, json=ASKED[path] | {"model": model}).status_code != 404
        for stream in (False, True):
            refused = client.post(path, json=ASKED[path] | {"model": model, "stream": stream})
            unknown = client.post(path, json=ASKED[path] | {"model": "y" * len(model), "stream": stream})
            assert refused.status_code == unknown.status_code == 404
            assert refused.content == unknown.content.replace(b"y" * len(model), model.encode())
            ours = ("x-request-id", "openai-processing-ms", "date")
            assert [h for h in refused.headers.raw if h[0].decode() not in ours] == [
                h for h in unknown.headers.raw if h[0].decode() not in ours
            ]


def test_models_lists_and_shows_only_what_the_key_may_use(gateway: Gateway) -> None:
    def listed(client: httpx.Client) -> list[str]:
        return [model["id"] for model in client.get("/v1/models").json()["data"]]

    assert listed(gateway.client()) == ["base", "mine"]
    mine, base, none = (gateway.client(adapters=allowed) for allowed in (["mine"], ["base"], []))
    assert [listed(client) for client in (mine, base, none)] == [["mine"], ["base"], []]
    assert mine.get("/v1/models/mine@v2").json()["root"].startswith("mine@")
    hidden, unknown = base.get("/v1/models/mine"), base.get("/v1/models/nobd")
    assert hidden.status_code == 404
    assert hidden.content == unknown.content.replace(b"nobd", b"mine")
    assert mine.post("/v1/chat/completions", json={"model": "mine", "messages": HI}).status_code == 200
    assert mine.post("/v1/chat/completions", json={"model": "base", "messages": HI}).status_code == 404


def test_a_usage_key_reads_its_own_tenant_and_no_other(gateway: Gateway) -> None:
    for tenant in ("acme", "rival"):
        asked = gateway.client(tenant=tenant, adapters=["base"])
        assert asked.post("/v1/chat/completions", json={"model": "base", "messages": HI}).status_code == 200
    key = gateway.create(tenant="acme", scopes=["usage"])["key"]
    reader = gateway.client_with(key)

    def tenants(client: httpx.Client) -> set[str]:
        return {row["tenant"] for row in client.get("/admin/v1/usage?group_by=tenant").json()["data"]}

    assert eventually(lambda: tenants(gateway.admin) >= {"acme", "rival"})
    assert tenants(reader) == {"acme"}
    (row,) = reader.get("/admin/v1/usage?group_by=adapter").json()["data"]
    assert (row["adapter"], row["requests"]) == ("base", 1)
    costs = reader.get("/admin/v1/costs?group_by=key").json()
    assert [(line["tenant"], line["requests"]) for line in costs["data"]] == [("acme", 1)]
    assert not any(costs[part] for part in ("overhead", "engines", "comparators", "quality", "idle_nano_usd"))
    assert "rival" in gateway.admin.get("/admin/v1/costs?group_by=tenant").text
    assert "rival" not in str(costs)
    assert SHADOW_KEY not in str(costs)
    environment = {"TURNTABLE_GATEWAY_URL": gateway.attached.url, "TURNTABLE_ADMIN_KEY": key, "COLUMNS": "200"}
    shown = CliRunner().invoke(costs_app, ["--group-by", "key"], env=environment)
    assert shown.exit_code == 0, shown.output
    assert "acme" in shown.stdout
    assert "Only what the tenant 'acme' caused" in shown.stdout


def test_a_key_over_its_life_as_the_openai_sdk_meets_it(gateway: Gateway) -> None:
    made = gateway.create(adapters=["mine"], rpm=600, budget_usd=2.5, budget_period="day", max_tokens=64)
    assert made["budgets"] == [{"usd": "2.5", "period": "day"}]
    key, url = made["key"], f"{KEYS}/{made['id']}"
    assert key.startswith(f"tt-{made['id']}-")
    shown = gateway.admin.get(url).json()
    assert {name: shown.get(name) for name in made} == made | {"key": None}
    assert (shown["state"], shown["rpm"], shown["tpm"], shown["max_tokens"]) == ("active", 600, None, 64)

    def ask(key: str, model: str = "mine") -> str | None:
        with OpenAI(base_url=f"{gateway.attached.url}/v1", api_key=key, max_retries=0) as client:
            return client.chat.completions.create(model=model, messages=HI, max_tokens=2).choices[0].message.content

    total = [{"usd": "1", "period": "total"}]
    assert gateway.admin.patch(url, json={"budgets": total}).json()["budgets"] == total
    assert gateway.admin.patch(url, json={"budget_usd": None}).json()["budgets"] == []
    assert ask(key)
    with pytest.raises(NotFoundError):
        ask(key, "base")
    changes = {"adapters": ["*"], "rpm": None, "name": "renamed"}
    changed = gateway.admin.patch(url, json=changes).json()
    assert [changed[name] for name in ("adapters", "rpm", "name", "max_tokens")] == [["*"], None, "renamed", 64]
    assert ask(key, "base")
    rotated = gateway.admin.post(f"{url}/rotate", json={"overlap_s": 600}).json()
    assert ask(key) == ask(rotated["key"])
    assert gateway.admin.delete(url).json()["state"] == "revoked"
    for gone in (key, rotated["key"]):
        with pytest.raises(AuthenticationError, match="expired or was revoked"):
            ask(gone)
    with pytest.raises(AuthenticationError, match="Incorrect"):
        ask(key[:-1])
    with pytest.raises(PermissionDeniedError, match="scope 'inference'"):
        ask(gateway.create(scopes=["usage"])["key"])
    assert ask(gateway.create(scopes=["admin"])["key"])
    assert [row["id"] for row in gateway.admin.get(KEYS).json()["data"] if row["name"] == "renamed"] == [made["id"]]


def test_an_admin_may_give_out_admin_keys_and_is_named_on_the_audit_log(gateway: Gateway) -> None:
    other = gateway.create(scopes=["admin"])
    made = gateway.client_with(other["key"]).post(KEYS, json={"name": "by another"}).json()
    (entry,) = gateway.admin.get(f"/admin/v1/audit?subject=key:{made['id']}").json()["data"]
    assert (entry["actor"], entry["action"], entry["evidence"]["name"]) == (other["id"], "create_key", "by another")


def test_tenants_are_put_changed_listed_and_deleted(gateway: Gateway) -> None:
    url = f"{TENANTS}/widgets.inc"
    put = gateway.admin.put(url, json={"tpm": 1000, "budgets": [{"usd": "9.99", "period": "month"}]}).json()
    assert (put["tpm"], put["budgets"]) == (1000, [{"usd": "9.99", "period": "month"}])
    patched = gateway.admin.patch(url, json={"rpm": 5}).json()
    assert (patched["rpm"], patched["tpm"], patched["budgets"]) == (5, 1000, put["budgets"])
    assert patched in gateway.admin.get(TENANTS).json()["data"]
    key = gateway.create(tenant="widgets.inc")
    refused = gateway.admin.delete(url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    gateway.admin.delete(f"{KEYS}/{key['id']}")
    assert gateway.admin.delete(url).status_code == 200
    assert gateway.admin.get(url).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "tenant": "No Tenant"}, "tenant"),
        ({"name": "x", "tenant": "shadow"}, "tenant"),
        ({"name": "x", "rpm": 0}, "rpm"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "adapters": ["a b"]}, "adapters.0"),
        ({"name": "x", "budget_usd": -1}, "budget_usd"),
        ({"name": "x", "budget_period": "day"}, "budget_period"),
        ({"name": "x", "budgets": [{"usd": "1", "period": "day"}], "budget_usd": 1, "budget_period": "day"}, "budgets"),
        ({"name": "x", "expires_at": "0001-01-01T00:00:00+23:00"}, "expires_at"),
        ({"name": "x", "digest": "00"}, "digest"),
    ],
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(gateway: Gateway, body: dict[str, Any], param: str) -> None:
    before = gateway.admin.get(KEYS).json()
    refused = gateway.admin.post(KEYS, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert gateway.admin.get(KEYS).json() == before


def test_nothing_that_the_gateway_says_or_keeps_holds_a_secret(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    made = gateway.create(name="canary")
    client = gateway.client_with(made["key"])
    said = [client.post("/v1/chat/completions", json={"model": model, "messages": HI}) for model in ("base", "nobody")]
    said.append(gateway.client_with(made["key"][:-1]).get("/v1/models"))
    pages = ("/metrics", "/openapi.json", "/admin/v1/audit?limit=1000", KEYS, "/admin/v1/usage?group_by=key")
    said += [gateway.admin.get(page) for page in pages]
    secret = made["key"].removeprefix(f"tt-{made['id']}-")
    data_dir: Path = gateway.attached.data_dir
    kept = [file.read_bytes() for file in data_dir.rglob("*") if file.is_file() and file.name != "admin.key"]
    for text in (*(answer.content for answer in said), *kept, caplog.text.encode()):
        assert secret.encode() not in text
        assert KEY.encode() not in text
