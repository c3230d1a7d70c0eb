"""What an answer gives away, carries for others, or lets grow: headers, errors, pages, logs, metrics."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.log_lines import OneLineFormatter
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from tests.conftest import ROOT
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.security.conftest import Answer, bearer, request, send
from tests.waiting import eventually

TELLING = ("Traceback", 'File "', "site-packages", "sqlite3", "sqlalchemy", "psycopg", "python3.", ".py", "0x7f")
CHAT = b"/v1/chat/completions"
FAULTY = b'{"model":"base","messages":[{}],"mock_fault":"%b"}'


def secured(answer: Answer | httpx.Response) -> dict[str, str | None]:
    names = ("x-content-type-options", "x-frame-options", "referrer-policy", "cache-control", "server", "x-powered-by")
    read = answer.header if isinstance(answer, Answer) else answer.headers.get
    return {name: read(name) for name in names}


def test_every_answer_that_is_not_inference_tells_browsers_to_trust_nothing(attached: Attached) -> None:
    expected = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "server": None,
        "x-powered-by": None,
    }
    paths = ("/docs", "/openapi.json", "/health", "/metrics", "/v1/models", "/admin/v1/audit", "/nowhere")
    for path in paths:
        answer = attached.http.get(path)
        assert secured(answer) == expected, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "strict-transport-security" not in answer.headers
    assert secured(send(attached.url, request(b"/admin/v1/audit"))) == expected
    assert "<script" not in attached.http.get("/docs").text
    assert attached.chat(max_tokens=1).headers.get("server") is None


@pytest.mark.parametrize("value", [b"\x01", b"a\tb", b"\xe4", b"x" * 129, b"a b", b"<b>", b'"', b"%0d%0aset-cookie: x"])
def test_a_request_id_comes_back_as_it_is_or_not_at_all(attached: Attached, value: bytes) -> None:
    """Response splitting: what a client calls its request is a header of the answer."""
    for target, method in ((b"/health", b"GET"), (CHAT, b"POST")):
        answer = send(attached.url, request(target, b"x-request-id: " + value, method=method))
        given = answer.header("x-request-id")
        assert (
            answer.status == 400 or given == value.decode("latin-1") or re.fullmatch(r"req_[0-9a-f]{24}", given or "")
        ), answer
        assert answer.header("set-cookie") is None


@pytest.mark.parametrize(
    "model", ["base\r\nset-cookie: x=1", "base\n\ndata: {}", "\x1b[2J", "x" * 100_000, "../../etc"]
)
def test_a_models_name_is_never_a_header_an_event_or_a_long_echo(attached: Attached, model: str) -> None:
    for stream in (False, True):
        answer = attached.chat(model=model, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "set-cookie" not in answer.headers
        assert len(answer.content) < 1_000
        assert b"\x1b" not in answer.content
        assert answer.content.count(b"\n") == 0


def test_no_error_tells_where_or_of_what_the_gateway_is_made(attached: Attached) -> None:
    bad = [
        request(b"/nowhere", bearer(KEY)),
        request(b"/admin/v1/adapters/%2e%2e", bearer(KEY)),
        request(b"/admin/v1/adapters/x/versions/zz", bearer(KEY)),
        request(b"/admin/v1/audit?limit=999999999999999999999999", bearer(KEY)),
        request(b"/admin/v1/usage?since=99999-01-01", bearer(KEY)),
        request(b"/admin/v1/usage?since=0001-01-01T00:00:00%2b23:59", bearer(KEY)),
        request(b"/admin/v1/costs?usd_per_hour=1e400&idle=x", bearer(KEY)),
        request(b"/admin/v1/adapters", bearer(KEY), method=b"POST", body=b"[" * 100_000),
        request(b"/admin/v1/adapters", bearer(KEY), b"content-type: multipart/form-data", method=b"POST", body=b"x"),
        request(
            *(b"/admin/v1/adapters", bearer(KEY), b"content-type: multipart/form-data; boundary=x"),
            method=b"POST",
            body=b'--x\r\ncontent-disposition: form-data; name="name"\r\n\r\n' + b"a" * (2 << 20) + b"\r\n--x--\r\n",
        ),
        request(b"/admin/v1/keys", bearer(KEY), method=b"POST", body=b'{"name": "x", "expires_at": "x"}'),
        request(CHAT, bearer(KEY), method=b"POST", body=b"\xff\xfe"),
        request(CHAT, bearer(KEY), method=b"POST", body=b'{"model": "base", "messages": [{"role": 7}]}'),
        *(
            request(CHAT, bearer(KEY), method=b"POST", body=FAULTY % fault)
            for fault in (b"error_500", b"drop", b"error_mid_stream")
        ),
        request(b"/\xff", bearer(KEY)),
    ]
    for message in bad:
        answer = send(attached.url, message)
        assert answer.status != 500, (message[:100], answer)
        shown = answer.body.decode() + answer.head.decode("latin-1")
        for word in (*TELLING, str(attached.data_dir), str(ROOT), str(Path.home()), attached.engine.settings.api_key):
            assert not word or word not in shown, (message[:100], word, shown)


def test_bodies_of_operators_end_at_a_limit(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_body_bytes=10_000, body_timeout_s=0.3, header_timeout_s=0.3)
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        for path in (b"/admin/v1/keys", b"/admin/v1/adapters", b"/admin/v1/costs/evidence/weights"):
            large = send(url, request(path, bearer(KEY), method=b"POST", body=b"{" + b" " * 20_000))
            assert (large.status, b"larger than 10000 bytes" in large.body) == (413, True)
            slow = request(path, bearer(KEY), b"content-length: 9000", method=b"POST")
            assert send(url, slow).status == 408


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("cors"), cors_origins=("https://app.example",))
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield url


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://app.example.evil", "http://app.example", "https://app.example:8"],
)
def test_only_named_origins_may_read_and_none_with_a_browsers_own_credentials(crossed: str, origin: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for headers in ({"origin": origin}, {"origin": origin} | asks):
        answer = httpx.options(f"{crossed}/v1/chat/completions", headers=headers)
        assert answer.headers.get("access-control-allow-origin") != origin
        assert answer.headers.get("access-control-allow-origin") != "*"
    named = httpx.get(f"{crossed}/health", headers={"origin": "https://app.example"})
    assert named.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in named.headers


def test_without_origins_no_page_may_read_anything(attached: Attached) -> None:
    for path in ("/v1/models", "/health", "/docs"):
        answer = attached.http.get(path, headers={"origin": "https://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_nothing_that_a_client_makes_up_becomes_a_metric(attached: Attached) -> None:
    """LiteLLM PR 27272, sglang 31193: a label for every path, model or key that somebody tried."""

    def series() -> set[str]:
        lines = attached.http.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    for status in (404, 401):
        attached.chat(model="first") if status == 404 else httpx.get(f"{attached.url}/v1/models")
    before = series()
    with httpx.Client(base_url=attached.url) as stranger:
        for number in range(50):
            attached.chat(model=f"made-up-{number}", user=f"u{number}")
            attached.http.get(f"/made/up/{number}", headers={"x-request-id": f"r{number}", "host": f"h{number}"})
            stranger.get("/v1/models", headers={"authorization": f"Bearer tt-{number}", "user-agent": f"a{number}"})
            stranger.request(f"M{number}", "/health")
    assert series() == before


def test_a_client_cannot_write_a_line_of_the_log_or_move_its_readers_terminal() -> None:
    """Line breaks, terminal escapes and right-to-left marks in whatever is logged."""
    evil = "x\r\n2026-01-01 00:00:00 gateway: admin logged in\x1b[2J\x07\u202e\u2028\x85\x00"
    record = logging.LogRecord("gateway", logging.WARNING, "x.py", 1, "model %s failed", (evil,), None)
    line = OneLineFormatter().format(record)
    assert line.isprintable()
    assert r"\r\n2026-01-01" in line
    assert r"\x1b[2J" in line
    try:
        raise ValueError(evil)
    except ValueError:
        record.exc_info, record.exc_text = sys.exc_info(), None
    first, *trace = OneLineFormatter().format(record).splitlines()
    assert first.isprintable()
    assert len(trace) >= 3
    assert all(line.startswith("  ") and line.isprintable() for line in trace)


def test_what_fails_inside_is_logged_in_lines_of_our_own(attached: Attached, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that a request holds is written down raw, whatever is made of it."""
    caplog.handler.setFormatter(OneLineFormatter())
    for path in ("/nowhere\x1b[2J", "/v1/models/x\ny", "/admin/v1/adapters/x\ry"):
        attached.http.get(path.replace("\n", "%0a").replace("\r", "%0d").replace("\x1b", "%1b"))
    attached.chat(model="x\x1b[2J\ny", mock_fault="error_500")
    attached.chat(mock_fault="drop", user="\x1b]0;owned\x07")
    assert eventually(lambda: attached.http.get("/ready").status_code == 200)
    assert all(line.isprintable() for line in caplog.text.split("\n"))
