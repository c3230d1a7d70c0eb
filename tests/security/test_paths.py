"""Which code a request reaches is decided by its path as it was sent, and by nothing else that a client writes."""

from pathlib import Path

import httpx
import pytest

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from tests.gateway.conftest import KEY, Attached, running_gateway
from tests.security.conftest import bearer, request, send

ADMIN = b"/admin/v1/adapters"
# What vLLM 0.32 answers on, beside what the gateway forwards.
ENGINE_ONLY = [
    *("/invocations", "/adapters", "/load", "/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache"),
    *(
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
    ),
    *("/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/inference/v1/generate"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/collective_rpc", "/start_profile", "/server_info"),
    *("/update_weights", "/init_weight_transfer_engine", "/scale_elastic_ep", "/is_sleeping", "/version", "/ping"),
    *("/turntable/residency", "/tokenizer_info", "/v1/completions/render", "/mcp", "/generate", "/abort_requests"),
]


@pytest.mark.parametrize(
    "host",
    [b"x/v1/models?", b"x#", b"evil@x", b"[::1]:1", b"x/health", b"", b"127.0.0.1:8001", b"x:80/../health"],
)
def test_no_host_header_opens_the_admin_surface(attached: Attached, host: bytes) -> None:
    """CVE-2026-48710 (Starlette's BadHost), GHSA-4xpc-pv4p-pm3w: middleware trusted a URL made of the host header."""
    answer = send(attached.url, request(ADMIN, host=host))
    assert answer.status == 401, answer
    assert answer.header("location") is None
    lost = send(attached.url, request(b"/nowhere", bearer(KEY), host=host))
    assert (lost.status, b"There is no GET '/nowhere' here." in lost.body) == (404, True)


@pytest.mark.parametrize(
    "target",
    [
        *(b"/admin/v1/adapters/", b"//admin/v1/adapters", b"/admin//v1/adapters", b"/admin/v1/adapters//"),
        *(b"/health/../admin/v1/adapters", b"/health/..%2fadmin/v1/adapters", b"/%2e%2e/admin/v1/adapters"),
        *(b"/admin/v1/adapters;x=/health", b"/admin/v1/adapters%00", b"/admin/v1/adapters%23", b"/ADMIN/v1/adapters"),
        *(b"/admin%2fv1%2fadapters", b"/%61dmin/v1/adapters", b"/admin/v1/adapters%3f", b"/admin\\v1\\adapters"),
        *(b"http://x/admin/v1/adapters", b"http://x/health/../admin/v1/adapters", b"/admin/v1/adapters?path=/health"),
        *(b"/v1/models/../../admin/v1/adapters", b"/v1/models/%2e%2e/%2e%2e/admin/v1/adapters", b"*", b"health"),
        *(b"/admin/v1/\xffadapters", b"/admin/v1/adapters%ff", b"/v1/chat/completions/../../../admin/v1/adapters"),
    ],
)
def test_no_spelling_of_a_path_gets_around_the_key(attached: Attached, target: bytes) -> None:
    """MLflow CVE-2026-2652, CVE-2026-3198: a guard knew one spelling of a path, the router another."""
    answer = send(attached.url, request(target))
    assert answer.status in (400, 401, 404, 405), answer
    assert answer.header("location") is None
    assert b'"data"' not in answer.body


@pytest.mark.parametrize(
    "target",
    [
        *(b"/admin%2fv1%2fadapters", b"/admin/v1%2Fadapters", b"/%61dmin/v1/adapters", b"/admin/v1/%61dapters"),
        *(b"/admin/v1/adapters/x%2fversions", b"/admin/v%31/adapters", b"/admin/v1/adapters/%2e%2e/x", b"/%68ealth"),
        *(b"/v1/models/%2e%2e", b"/v1%2fmodels", b"/admin%5cv1/adapters", b"http://x/admin%2fv1%2fadapters"),
    ],
)
def test_with_the_key_too_a_path_has_one_spelling(attached: Attached, target: bytes) -> None:
    answer = send(attached.url, request(target, bearer(KEY)))
    assert (answer.status, b"bad_framing" in answer.body) == (400, True), answer


def test_a_models_name_may_hold_an_encoded_slash_and_what_else_needs_encoding(attached: Attached) -> None:
    for target in (b"/v1/models/org%2fname", b"/v1/models/org%2Fna%20me", b"/v1/models/a%40v1"):
        answer = send(attached.url, request(target, bearer(KEY)))
        assert (answer.status, b"model_not_found" in answer.body) == (404, True), answer


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH", "PUT", "TRACE", "PROPFIND", "QUERY", "CONNECT"])
def test_no_method_gets_around_the_key(attached: Attached, method: str) -> None:
    for headers in ((), (b"x-http-method-override: GET",), (b"x-method-override: GET", b"x-original-url: /health")):
        answer = send(attached.url, request(ADMIN, *headers, method=method.encode()))
        assert answer.status in (400, 401, 405), answer
        assert b'"data"' not in answer.body


@pytest.mark.parametrize(
    "header",
    [
        *(b"x-http-method-override: GET", b"x-original-url: /admin/v1/audit", b"x-rewrite-url: /admin/v1/audit"),
        *(
            b"x-forwarded-prefix: /admin",
            b"x-forwarded-host: x",
            b"x-forwarded-for: 127.0.0.1",
            b"forwarded: for=127.0.0.1",
        ),
        *(
            b"x-forwarded-user: admin",
            b"x-remote-user: admin",
            b"x-turntable-tenant: default",
            b"x-script-name: /admin",
        ),
    ],
)
def test_no_header_of_a_proxy_opens_or_moves_a_request(attached: Attached, header: bytes) -> None:
    assert send(attached.url, request(ADMIN, header)).status == 401
    assert send(attached.url, request(b"/nowhere", header, bearer(KEY))).status == 404


def test_the_engine_is_reached_by_the_listed_paths_only(attached: Attached) -> None:
    """vLLM's own key leaves most of its paths open (its security page says so): an allow-list is all there is."""
    seen = len(attached.engine.received)
    for path in ENGINE_ONLY:
        for target in (path, f"/v1/..{path}", f"/{path}"):
            for method in ("GET", "POST"):
                answer = send(attached.url, request(target.encode(), bearer(KEY), method=method.encode(), body=b"{}"))
                assert (answer.status, b"unknown_url" in answer.body) == (404, True), (method, target, answer)
    assert len(attached.engine.received) == seen


def test_every_path_of_the_app_is_named_by_a_key_or_open_on_purpose(attached: Attached) -> None:
    """CVE-2026-35029 (`/config/update` without a role check): a route that was forgotten is found here."""
    document = attached.http.get("/openapi.json").json()
    paths = [path.replace("{name}", "x").replace("{version}", "v1") for path in document["paths"]]
    assert len(paths) > 20
    with httpx.Client(base_url=attached.url) as stranger:
        for path in paths:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                answer = stranger.request(method, path, content=b"{}")
                expected = 200 if path in ("/health", "/ready") else 401
                assert answer.status_code in (expected, 405), (method, path, answer.text)


def test_metrics_take_a_key_of_their_own_unless_they_are_public(attached: Attached, tmp_path: Path) -> None:
    """A key's 404 hides other tenants' adapters; what names them all must not be open beside it."""

    def status(scope: str) -> int:
        made = attached.http.post("/admin/v1/keys", json={"name": "scraper", "scopes": [scope]}).json()
        with httpx.Client(base_url=attached.url, headers={"authorization": f"Bearer {made['key']}"}) as http:
            if scope == "metrics":
                refused = [http.get(path).status_code for path in ("/v1/models", "/admin/v1/usage", "/admin/v1/audit")]
                assert refused == [403, 403, 403]
            return http.get("/metrics").status_code

    assert {scope: status(scope) for scope in ("metrics", "admin", "usage", "inference")} == {
        "metrics": 200,
        "admin": 200,
        "usage": 403,
        "inference": 403,
    }
    assert httpx.get(f"{attached.url}/metrics").status_code == 401
    public = Settings(data_dir=tmp_path, public_metrics=True)
    with serving() as engine, running_gateway(public, engine.url) as url:
        assert httpx.get(f"{url}/metrics").status_code == 200


def test_a_key_is_looked_at_before_the_body(attached: Attached) -> None:
    """Whoever has no key cannot make the gateway read, parse or hold anything."""
    for path, operations in attached.http.get("/openapi.json").json()["paths"].items():
        target = path.replace("{name}", "x").replace("{version}", "v1").replace("{kind}", "weights").encode()
        for method in operations.keys() - {"get"}:
            answer = send(attached.url, request(target, b"content-length: 1000000", method=method.upper().encode()))
            assert answer.status == 401, (method, target, answer)
