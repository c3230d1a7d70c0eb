"""The admin client against a listening server: what it sends, and how each failure reads."""

import email
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from adapters import AdminClient, AdminError, ArchiveError, PublishedVersion
from adapters.archive import unpack
from tests.adapters.conftest import Request, Serve

KEY = "tt-admin"
PUBLISHED = {"name": "mine", "version": "v1", "digest": "0" * 64, "state": "ready", "live": False}


def form_of(request: Request) -> dict[str, Message]:
    """The parts of a multipart request by their names."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts: Any = email.message_from_bytes(head + request.body).get_payload()
    return {part.get_param("name", header="content-disposition"): part for part in parts}


def test_a_publish_sends_the_name_and_the_whole_archive(serve: Serve, adapter_dir: Path, tmp_path: Path) -> None:
    api = serve(PUBLISHED)
    with AdminClient(f"{api.url}/", KEY) as admin:
        published = admin.publish("mine", adapter_dir)
    assert published == PublishedVersion("mine", "v1", "0" * 64, "ready")
    (request,) = api.received
    assert (request.method, request.path) == ("POST", "/admin/v1/adapters")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    form = form_of(request)
    assert form["name"].get_payload() == "mine"
    content = form["file"].get_payload(decode=True)
    assert isinstance(content, bytes)
    (tmp_path / "arrived.tar.gz").write_bytes(content)
    (tmp_path / "arrived").mkdir()
    unpack(tmp_path / "arrived.tar.gz", tmp_path / "arrived", max_bytes=1 << 20)
    for path in adapter_dir.iterdir():
        assert (tmp_path / "arrived" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_without_an_adapter_is_not_sent(serve: Serve, tmp_path: Path) -> None:
    api = serve()
    with AdminClient(api.url, KEY) as admin, pytest.raises(ArchiveError):
        admin.publish("mine", tmp_path)
    assert api.received == []


@pytest.mark.parametrize(
    ("expect_live", "body"), [(None, b'{"version":"v2"}'), ("v1", b'{"version":"v2","expect_live":"v1"}')]
)
def test_a_promotion_states_what_it_expects(serve: Serve, expect_live: str | None, body: bytes) -> None:
    api = serve({"live": True})
    with AdminClient(api.url, KEY) as admin:
        assert admin.promote("mine", "v2", expect_live=expect_live) == {"live": True}
    (request,) = api.received
    assert (request.method, request.path, request.body) == ("POST", "/admin/v1/adapters/mine/promote", body)


def test_a_refusal_is_told_in_the_gateways_words(serve: Serve, adapter_dir: Path) -> None:
    words = "adapter_config.json: use_dora: the engine cannot serve DoRA."
    api = serve({"error": {"message": words, "type": "invalid_request_error"}}, status=422)
    with AdminClient(api.url, KEY) as admin, pytest.raises(AdminError) as refused:
        admin.publish("mine", adapter_dir)
    assert (str(refused.value), refused.value.status) == (words, 422)


@pytest.mark.parametrize("answer", [b"<html>Bad Gateway</html>", b"", [], {}, {"error": "no"}, {"detail": "no"}])
def test_a_failure_without_an_explanation_says_so(serve: Serve, answer: Any) -> None:
    api = serve(answer, status=502)
    with (
        AdminClient(api.url, KEY) as admin,
        pytest.raises(AdminError, match="answered HTTP 502 without an exp") as failed,
    ):
        admin.request("GET", "/adapters")
    assert failed.value.status == 502


@pytest.mark.parametrize("answer", [b"<html>Welcome</html>", b"", b"\xff", ["a list"], "a text", None])
def test_a_success_that_is_no_json_object_comes_from_no_gateway(serve: Serve, answer: Any) -> None:
    api = serve(answer)
    with (
        AdminClient(api.url, KEY) as admin,
        pytest.raises(AdminError, match=f"What answers at {api.url} is not a gateway"),
    ):
        admin.request("GET", "/adapters")


def test_nothing_listening_says_how_to_start_a_gateway(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    with AdminClient(url, KEY) as admin, pytest.raises(AdminError) as failed:
        admin.request("GET", "/adapters")
    assert str(failed.value).startswith(f"No gateway answers at {url} (")
    assert str(failed.value).endswith("start one with `turntable serve`.")
    assert failed.value.status == 0


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "", "http://"])
def test_an_address_without_http_reaches_no_gateway(url: str) -> None:
    with pytest.raises(AdminError), AdminClient(url, KEY) as admin:
        admin.request("GET", "/adapters")


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[::1"])
def test_what_is_no_address_is_told_before_anything_is_sent(url: str) -> None:
    with pytest.raises(AdminError, match=r"is not an address .*; write it like http://127"):
        AdminClient(url, KEY)


@pytest.mark.parametrize("key", ["tt-ключ", "tt-a\nb"])
def test_a_key_that_no_header_can_hold_is_one_sentence(serve: Serve, key: str) -> None:
    api = serve()
    with pytest.raises(AdminError), AdminClient(api.url, key) as admin:
        admin.request("GET", "/adapters")
    assert api.received == []
