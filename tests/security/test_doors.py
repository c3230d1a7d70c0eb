"""Where the gateway listens: TLS, an address for operators, and nothing in the clear beyond loopback unless told."""

import json
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.admin_client import AdminClient
from gateway.app import Turntable
from gateway.cli.listening import Listeners, open_listeners, server
from gateway.cli.startup import ServeError, plan_for
from gateway.inference.formats import APIS
from gateway.server.middleware import is_public
from gateway.settings import Settings
from gateway.wiring import Setup
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY
from tests.security.certificates import Authority, Pem
from tests.waiting import eventually

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Pem:
    return authority.issue("server")


@contextmanager
def listening(settings: Settings, engine: MockServer) -> Iterator[Listeners]:
    """A gateway behind the doors of its settings, as `turntable serve` opens them."""
    with open_listeners(settings) as doors:
        plan = plan_for(settings, None, is_cpu=False)
        setup = Setup(
            settings=settings,
            admin_key=KEY,
            engine_urls=[engine.url],
            spec=None,
            base_dir=None,
            announce=lambda _line: None,
            give_up=lambda _reason: None,
            plan=plan,
        )
        running = server(Turntable(setup), settings, doors)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [doors.public]}, daemon=True)
        thread.start()
        try:
            yield doors
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def secured(
    authority: Authority, certificate: Pem, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Listeners, MockServer]]:
    """TLS in front of applications, operators at a port of their own."""
    data_dir = tmp_path_factory.mktemp("secured")
    settings = Settings(data_dir=data_dir, port=0, admin_port=0, tls_cert=certificate.cert, tls_key=certificate.key)
    with serving(MockSettings(tokens=200, itl_ms=20)) as engine, listening(settings, engine) as doors:
        with httpx.Client(base_url=doors.public_url, verify=trusting(authority)) as http:
            assert eventually(lambda: http.get("/ready").status_code == 200)
        yield doors, engine


def trusting(authority: Authority, shown: Pem | None = None) -> ssl.SSLContext:
    """What a client needs that trusts one authority, and may show a certificate."""
    context = ssl.create_default_context(cafile=str(authority.pem.cert))
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


def test_answers_and_streams_come_over_tls_and_a_client_that_leaves_stops_the_engine(
    secured: tuple[Listeners, MockServer], authority: Authority
) -> None:
    doors, engine = secured
    assert doors.public_url.startswith("https://")
    with httpx.Client(base_url=doors.public_url, verify=trusting(authority), headers=BEARER) as http:
        whole = http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 3})
        assert whole.json()["usage"]["completion_tokens"] == 3
        streamed = http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 3, "stream": True})
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert http.get("/v1/models").headers["strict-transport-security"] == "max-age=31536000"
        aborted = engine.engine.aborted
        with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as leaving:
            assert next(leaving.iter_lines()).startswith("data: ")
        assert eventually(lambda: engine.engine.aborted == aborted + 1)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{doors.public_url}/health")


def test_nothing_older_than_tls_1_2_and_nothing_in_the_clear_is_spoken(
    secured: tuple[Listeners, MockServer], authority: Authority
) -> None:
    address = secured[0].public.getsockname()[:2]
    context = trusting(authority)
    with socket.create_connection(address) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as client:
        assert client.version() == "TLSv1.3"
    old = trusting(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(address) as raw,
        pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|UNEXPECTED_EOF"),
    ):
        old.wrap_socket(raw, server_hostname="127.0.0.1")
    with socket.create_connection(address, timeout=20) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" not in b"".join(iter(lambda: raw.recv(65536), b""))


def test_the_public_address_has_no_admin_surface_when_operators_have_their_own(
    secured: tuple[Listeners, MockServer], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors, _ = secured
    assert doors.admin_url is not None
    with (
        httpx.Client(base_url=doors.public_url, verify=trusting(authority), headers=BEARER) as applications,
        httpx.Client(base_url=doors.admin_url, headers=BEARER) as operators,
    ):
        paths = operators.get("/openapi.json").json()["paths"]
        hidden = [path for path in paths if path.startswith("/admin/")] + ["/metrics", "/docs", "/openapi.json"]
        hidden += ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
        for path in hidden:
            for method in ("GET", "POST", "DELETE"):
                answer = applications.request(method, path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), (method, path)
                assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("/admin/v1/adapters", "/metrics", "/docs", "/v1/models", "/health"):
            assert operators.get(path).status_code == 200, path
        assert applications.get("/v1/models/base").json()["id"] == "base"
        assert operators.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1}).status_code == 200
    with AdminClient(doors.admin_url, KEY) as admin:
        assert admin.request("GET", "/adapters")["data"] == []
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem.cert))
    with AdminClient(doors.public_url, KEY) as client, pytest.raises(Exception, match="There is no GET"):
        client.request("GET", "/adapters")


def test_every_path_that_is_not_for_operators_is_served_in_public(secured: tuple[Listeners, MockServer]) -> None:
    """A new path is on neither side until somebody decides: it is then missing in public, and this test says so."""
    paths = json.loads(httpx.get(f"{secured[0].admin_url}/openapi.json").text)["paths"]
    for_operators = {path for path in paths if path.startswith("/admin/") or path == "/metrics"}
    for_operators |= {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    assert {path for path in paths.keys() - for_operators - APIS.keys() if not is_public(path)} == set()
    assert {path for path in for_operators if is_public(path)} == set()


def test_with_a_client_authority_only_its_clients_are_served(
    authority: Authority, certificate: Pem, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").issue("stranger")
    settings = Settings(
        data_dir=tmp_path / "data",
        port=0,
        tls_cert=certificate.cert,
        tls_key=certificate.key,
        tls_client_ca=authority.pem.cert,
    )
    settings.data_dir.mkdir()
    with serving() as engine, listening(settings, engine) as doors:
        url = f"{doors.public_url}/health"
        assert httpx.get(url, verify=trusting(authority, authority.issue("client"))).status_code == 200
        for shown in (None, stranger):
            with pytest.raises(httpx.TransportError):
                httpx.get(url, verify=trusting(authority, shown))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"tls_key": "server.key"}, "TLS needs a certificate"),
        ({"tls_client_ca": "server.pem"}, "TLS needs a certificate"),
        ({"tls_cert": "nowhere.pem", "tls_key": "server.key"}, r"nowhere\.pem cannot be read \(No such file"),
        ({"tls_cert": "server.pem", "tls_key": "nowhere.key"}, r"nowhere\.key cannot be read"),
        ({"tls_cert": "server.pem"}, "are not a certificate .* and its unencrypted private key"),
        (
            {"tls_cert": "server.key", "tls_key": "server.pem"},
            "are not a certificate .* and its unencrypted private key",
        ),
        ({"tls_cert": "server.pem", "tls_key": "other.key"}, r"key values mismatch"),
        (
            {"tls_cert": "locked.pem", "tls_key": "locked.key"},
            "are not a certificate .* and its unencrypted private key",
        ),
        (
            {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "server.key"},
            "contains no CA certificate",
        ),
        ({"host": "0.0.0.0"}, r"unencrypted: 0\.0\.0\.0 is not a loopback address; give --tls-cert .* or --plain-http"),
        ({"host": "::"}, "unencrypted: :: is not a loopback address"),
        ({"admin_port": 0, "admin_host": "0.0.0.0"}, r"unencrypted: 0\.0\.0\.0"),
    ],
)
def test_what_cannot_be_listened_with_is_said_in_a_sentence(
    authority: Authority, given: dict[str, Any], sentence: str
) -> None:
    directory = authority.pem.cert.parent
    for name, password in (("server", None), ("other", None), ("locked", b"secret")):
        authority.issue(name, password=password) if not (directory / f"{name}.key").exists() else None
    files: dict[str, Any] = {
        name: directory / str(value) if name.startswith("tls") else value for name, value in given.items()
    }
    with pytest.raises(ServeError, match=sentence), open_listeners(Settings(port=0, **files)):
        pass


def test_beyond_loopback_it_listens_with_tls_or_when_told_so(certificate: Pem) -> None:
    with open_listeners(Settings(port=0, host="0.0.0.0", plain_http=True)) as doors:
        assert doors.public_url.startswith("http://0.0.0.0:")
    tls: dict[str, Any] = {"tls_cert": certificate.cert, "tls_key": certificate.key}
    with open_listeners(Settings(port=0, host="0.0.0.0", admin_port=0, admin_host="0.0.0.0", **tls)) as doors:
        assert doors.public_url.startswith("https://0.0.0.0:")
        assert str(doors.admin_url).startswith("https://0.0.0.0:")
