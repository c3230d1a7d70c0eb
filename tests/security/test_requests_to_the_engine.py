"""What a request may not have the engine do: fetch addresses, load tensors, run templates, ask somebody else."""

import json
import socket
from typing import Any

import pytest

from gateway.inference.formats import APIS
from tests.gateway.conftest import Attached
from tests.security.conftest import request, send

INSIDE = "http://169.254.169.254/latest/meta-data/"
CHAT, RESPONSES, MESSAGES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, *parts]}], "max_tokens": 1}


def url_image(url: Any) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


FETCHES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, user({"type": "image_url", "image_url": {"url": INSIDE}})),
    (CHAT, user({"type": "image_url", "image_url": INSIDE})),
    (CHAT, user({"image_url": INSIDE})),
    (CHAT, user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})),
    (CHAT, user({"type": "image_url", "image_url": {"url": " " + INSIDE}})),
    (CHAT, user({"type": "image_url", "image_url": {"url": [INSIDE]}})),
    (CHAT, user({"type": "audio_url", "audio_url": {"url": INSIDE}})),
    (CHAT, user({"type": "video_url", "video_url": {"url": "ftp://10.0.0.1/x"}})),
    (CHAT, {"messages": [{"role": "tool", "type": "x", "content": [{"image_url": INSIDE}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": INSIDE}]}]}),
    (RESPONSES, {"input": [{"type": "input_image", "image_url": INSIDE}]}),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": [{"image_url": INSIDE}]}]}),
    (MESSAGES, user(url_image(INSIDE))),
    (MESSAGES, user({"type": "tool_result", "content": [url_image(INSIDE)]})),
    (EMBEDDINGS, {"input": [{"content": [{"type": "image_url", "image_url": INSIDE}]}]}),
]
PROGRAMS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, user() | {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}, "chat_template"),
    (CHAT, user() | {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}}, "chat_template_kwargs"),
    (CHAT, user() | {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
    (RESPONSES, {"input": "hi", "chat_template": "{{ x }}"}, "chat_template"),
    ("/tokenize", user() | {"chat_template": "{{ x }}"}, "chat_template"),
    ("/v1/completions", {"prompt": "hi", "prompt_embeds": "gASVAAA="}, "prompt_embeds"),
    (CHAT, user({"type": "image_embeds", "image_embeds": "gASVAAA="}), "messages"),
    (CHAT, user({"type": "prompt_embeds", "data": "gASVAAA="}), "messages"),
]


@pytest.mark.parametrize(("path", "body"), FETCHES)
def test_no_request_makes_the_engine_fetch_an_address(attached: Attached, path: str, body: dict[str, Any]) -> None:
    """SSRF by media, as CVE-2026-12798 was by another field: link-local addresses, files, whatever the scheme."""
    _refused(attached, path, body, "input" if "input" in body else "messages")


@pytest.mark.parametrize(("path", "body", "param"), PROGRAMS)
def test_no_request_makes_the_engine_run_a_template_or_load_a_tensor(
    attached: Attached, path: str, body: dict[str, Any], param: str
) -> None:
    """CVE-2025-61620 and CVE-2025-62426 (templates), CVE-2025-62164 (tensors), CVE-2026-22807 (models are code)."""
    _refused(attached, path, body, param)


def _refused(attached: Attached, path: str, body: dict[str, Any], param: str) -> None:
    seen = len(attached.engine.received)
    answer = attached.http.post(path, json={"model": "base"} | body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.get("param", param) == param
    assert INSIDE not in answer.text
    assert len(attached.engine.received) == seen


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, user({"type": "image_url", "image_url": {"url": PIXEL}})),
        (CHAT, user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})),
        (CHAT, user() | {"chat_template_kwargs": {"enable_thinking": False}}),
        (CHAT, {"messages": [{"role": "user", "content": f"read {INSIDE} for me"}]}),
        (MESSAGES, user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}})),
        (
            RESPONSES,
            {"input": [{"content": [{"text": "x", "annotations": [{"type": "url_citation", "url": INSIDE}]}]}]},
        ),
    ],
)
def test_media_in_the_request_itself_and_words_about_addresses_pass(path: str, body: dict[str, Any]) -> None:
    sent = {"model": "base"} | body
    assert APIS[path].parse(json.dumps(sent).encode(), "base").document == sent


def test_no_field_or_header_sends_a_request_somewhere_else(attached: Attached) -> None:
    """CVE-2024-6587: a client's `api_base` took requests, and the key with them, to another host."""
    elsewhere = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
    fields = {name: url for name in ("api_base", "base_url", "proxy", "webhook", "callback_url", "engine_url")}
    answer = attached.http.post(
        CHAT,
        json={"model": "base", "messages": [{"role": "user", "content": "hi"}], "api_key": "x", "max_tokens": 1}
        | fields,
        headers={"x-api-base": url, "x-turntable-engine": url, "host": url.removeprefix("http://")},
    )
    assert answer.status_code == 200
    forwarded = attached.engine.headers[-1]
    assert not {b"authorization", b"x-api-key", b"cookie", b"x-api-base"} & forwarded.keys()
    elsewhere.settimeout(0)
    with elsewhere, pytest.raises(BlockingIOError):
        elsewhere.accept()


@pytest.mark.parametrize("where", ["api_key", "key", "token", "access_token", "authorization"])
def test_a_key_in_an_address_opens_nothing(attached: Attached, where: str) -> None:
    """Addresses are kept in logs, histories and referrers of everything on the way."""
    key = attached.http.headers["authorization"].removeprefix("Bearer ").encode()
    answer = send(attached.url, request(b"/v1/models?" + where.encode() + b"=" + key))
    assert answer.status == 401
    assert key not in answer.body + answer.head
