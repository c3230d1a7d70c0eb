"""What a client is told that asks the wrong path or by the wrong method, and HEAD wherever there is GET."""

import httpx
import pytest

from tests.gateway.conftest import Attached
from tests.gateway.server.raw_sockets import connected, read_all


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/Chat/Completions", "/v1/chat/completions"),
        ("/messages", "/v1/messages"),
        ("/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models/", "/v1/models"),
        ("/models/base", "/v1/models/base"),
        ("/health/", "/health"),
        ("/admin/v1//adapters/", "/admin/v1/adapters"),
        ("/admin/v1/adapters/", "/admin/v1/adapters"),
    ],
)
def test_the_error_for_a_common_wrong_path_names_the_right_one(attached: Attached, path: str, nearest: str) -> None:
    with connected(attached.url) as client:
        key = attached.http.headers["authorization"]
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\nconnection: close\r\n\r\n".encode())
        answer = read_all(client).decode()
    assert answer.startswith("HTTP/1.1 404")
    assert '"code":"unknown_url"' in answer
    assert f"There is no GET '{path}' here. Try '{nearest}'." in answer


def test_a_path_that_is_like_no_other_is_given_no_hint(attached: Attached) -> None:
    for path in ("/nowhere", "/v1/nowhere", "/" + "x" * 500, "/v1"):
        message = attached.http.get(path).json()["error"]["message"]
        assert message.endswith(" here."), message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/messages", "POST"),
        ("DELETE", "/health", "GET, HEAD"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("PATCH", "/admin/v1/adapters", "GET, HEAD, POST"),
        ("OPTIONS", "/admin/v1/keys", "GET, HEAD, POST"),
    ],
)
def test_the_error_for_a_wrong_method_names_the_allowed_ones(
    attached: Attached, method: str, path: str, allowed: str
) -> None:
    answer = attached.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert method == "HEAD" or answer.json()["error"]["message"].endswith(f"use {allowed}.")


@pytest.mark.parametrize(
    "path",
    [
        *("/health", "/ready", "/v1/models", "/v1/models/base", "/metrics", "/docs", "/openapi.json", "/nowhere"),
        *("/admin/v1/adapters", "/admin/v1/keys", "/admin/v1/usage", "/admin/v1/usage/rows", "/admin/v1/audit"),
    ],
)
def test_head_answers_as_get_without_the_body_and_the_connection_goes_on(attached: Attached, path: str) -> None:
    of_get = attached.http.get(path)
    key = attached.http.headers["authorization"]
    with connected(attached.url) as client:
        head = f"HEAD {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n\r\n"
        client.sendall((head + head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).encode())
        first, second, rest = read_all(client).split(b"\r\n\r\n")
    assert rest == b""
    assert int(first.split()[1]) == int(second.split()[1]) == of_get.status_code
    assert of_get.headers["content-type"].encode() in first


def test_head_needs_the_key_that_get_needs(attached: Attached) -> None:
    assert httpx.head(f"{attached.url}/v1/models").status_code == 401
    assert httpx.head(f"{attached.url}/admin/v1/adapters").status_code == 401


def test_every_model_says_since_when_it_is_there(attached: Attached) -> None:
    models = attached.http.get("/v1/models").json()["data"]
    assert all(model["created"] > 1_700_000_000 for model in models)
