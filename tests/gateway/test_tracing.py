"""OpenTelemetry spans as a collector receives them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, running_gateway, wait_until_ready

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector: its URL, and the spans that it has received."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_below_the_clients_own_with_tokens_and_without_text(tmp_path: Path) -> None:
    with collector() as (endpoint, spans):
        settings = Settings(data_dir=tmp_path, otlp_endpoint=endpoint)
        with serving(MockSettings(tokens=8)) as engine, running_gateway(settings, engine.url) as url:
            wait_until_ready(url)
            headers = {"authorization": f"Bearer {KEY}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
            body = {"model": "base", "messages": [{"role": "user", "content": "secret words"}]}
            httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
            httpx.post(f"{url}/v1/chat/completions", json=body | {"stream": True}, headers=headers).raise_for_status()
            bad = httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 0}, headers=headers)
            assert bad.status_code == 400
    answered, streamed, refused = spans
    facts = {item.key: item.value for item in answered.attributes}
    assert (answered.trace_id.hex(), answered.parent_span_id.hex()) == (TRACE, PARENT)
    assert answered.name == "chat base"
    assert facts["gen_ai.usage.output_tokens"].int_value == 8
    assert facts["gen_ai.request.model"].string_value == "base"
    assert answered.end_time_unix_nano > answered.start_time_unix_nano
    assert {item.key: item.value.string_value for item in refused.attributes}["error.type"] == "400"
    assert "gen_ai.server.time_to_first_token" not in facts
    assert "gen_ai.server.time_to_first_token" in {item.key for item in streamed.attributes}
    assert "secret words" not in str(spans)
    assert KEY not in str(spans)


def test_the_engine_gets_the_clients_trace_context(tmp_path: Path) -> None:
    with serving() as engine, running_gateway(Settings(data_dir=tmp_path), engine.url) as url:
        wait_until_ready(url)
        headers = {"authorization": f"Bearer {KEY}", "traceparent": f"00-{TRACE}-{PARENT}-01", "x-other": "stays here"}
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).raise_for_status()
        seen = engine.engine.headers[-1]
    assert seen[b"traceparent"] == f"00-{TRACE}-{PARENT}-01".encode()
    assert not {b"authorization", b"x-other", b"cookie"} & seen.keys()
