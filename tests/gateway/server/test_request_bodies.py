"""Bodies of requests: refused before they are read where possible, unpacked under a limit, bounded in values."""

import bz2
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zstandard

from loadtest.mock_engine.engine import Fault
from tests.gateway.conftest import KEY, Attached
from tests.gateway.server.raw_sockets import connected
from tests.waiting import eventually

BROKE = {"usd": "0", "period": "day"}
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def new_key(attached: Attached, **fields: object) -> str:
    """The secret of a new key with these limits or budgets."""
    made = attached.http.post("/admin/v1/keys", json={"name": "bodies", "scopes": ["inference"]} | fields)
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


def announce(attached: Attached, secret: str) -> tuple[bytes, bytes]:
    """Status and whole answer to a request whose body is announced and never sent."""
    with connected(attached.url) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-length: 4000000\r\n\r\n"
        client.sendall(head.encode())
        answer = client.recv(65536)
    return answer.split()[1], answer


def test_what_a_limit_or_budget_refuses_is_refused_without_its_body(attached: Attached) -> None:
    often = new_key(attached, rpm=1)
    assert attached.http.post(CHAT, json=ASKED, headers={"authorization": f"Bearer {often}"}).status_code == 200
    for secret, code in ((often, b"rate_limit_exceeded"), (new_key(attached, budgets=[BROKE]), b"insufficient_quota")):
        status, answer = announce(attached, secret)
        assert (status, code in answer) == (b"429", True), answer
    assert b"x-ratelimit-remaining-requests: 0" in announce(attached, often)[1]
    unparsed = attached.http.post(CHAT, content=b"{", headers={"authorization": f"Bearer {often}"})
    assert unparsed.status_code == 429


def test_a_place_that_is_not_free_is_refused_without_the_body(attached: Attached) -> None:
    secret = new_key(attached, max_concurrency=1)
    attached.engine.received.clear()
    hanging = json.dumps(ASKED | {"mock_fault": Fault.HANG}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-length: {len(hanging)}\r\n\r\n"
    )
    with connected(attached.url) as client:
        client.sendall(head.encode() + hanging)
        assert eventually(lambda: len(attached.engine.received) == 1)
        status, answer = announce(attached, secret)
        assert (status, b"1 requests at a time" in answer) == (b"429", True), answer


def test_what_only_the_body_can_tell_takes_nothing_from_a_limit(attached: Attached) -> None:
    headers = {"authorization": f"Bearer {new_key(attached, rpm=1)}"}
    assert attached.http.post(CHAT, content=b"{", headers=headers).status_code == 400
    assert attached.http.post(CHAT, json=ASKED, headers=headers).status_code == 200


@pytest.mark.parametrize("inner", ["[],", "{},", "[[1],2],"])
def test_a_body_of_more_lists_and_objects_than_anybody_needs_is_refused(attached: Attached, inner: str) -> None:
    body = json.dumps(ASKED)[:-1] + ', "metadata": [' + inner * 100_000 + "1]}"
    answer = attached.http.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert "65536 lists and objects" in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", ["a,", "[{", '\\",{[', "\\\\", '"'])
def test_a_long_text_is_served_whatever_is_written_in_it(attached: Attached, text: str) -> None:
    asked = ASKED | {"messages": [{"role": "user", "content": text * (3_000_000 // len(text))}]}
    assert attached.http.post(CHAT, json=asked).status_code == 200


def test_a_long_list_of_numbers_is_served(attached: Attached) -> None:
    answer = attached.http.post(CHAT, json=ASKED | {"metadata": {"x": list(range(500_000))}})
    assert answer.status_code == 200


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("path", [CHAT, "/admin/v1/keys"])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
)
def test_a_packed_body_is_read_as_what_it_holds(
    attached: Attached, path: str, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    asked = ASKED if path == CHAT else {"name": "packed", "scopes": ["inference"]}
    packed = pack(json.dumps(asked | {"name": "packed"} if path != CHAT else asked).encode())
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    assert attached.http.post(path, content=packed, headers=headers).status_code in (200, 201)
    pieces = (packed[start : start + 7] for start in range(0, len(packed), 7))
    assert attached.http.post(path, content=pieces, headers=headers).status_code in (200, 201)


@pytest.mark.parametrize("path", [CHAT, "/admin/v1/keys"])
@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "compress", "junk"])
def test_an_encoding_that_is_not_read_is_named_with_those_that_are(
    attached: Attached, path: str, encoding: str
) -> None:
    packed = zstandard.compress(json.dumps(ASKED).encode()) if encoding == "zstd" else bz2.compress(b"{}")
    answer = attached.http.post(path, content=packed, headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_content_encoding")
    assert f"'{encoding}'" in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("path", [CHAT, "/admin/v1/keys"])
def test_a_packed_body_is_bounded_by_what_it_becomes_and_has_to_be_whole(attached: Attached, path: str) -> None:
    bomb = gzip.compress(b" " * (200 << 20), compresslevel=1)
    headers = {"content-encoding": "gzip"}
    answer = attached.http.post(path, content=bomb, headers=headers)
    assert (answer.status_code, "unpacked" in answer.text) == (413, True)
    whole = gzip.compress(json.dumps(ASKED).encode())
    for broken in (whole[:-1], whole[:5], b"", whole + b"x", json.dumps(ASKED).encode()):
        answer = attached.http.post(path, content=broken, headers=headers)
        assert (answer.status_code, "not a complete gzip stream" in answer.text) == (400, True), broken


def test_no_packed_body_is_unpacked_before_the_key_is_known(attached: Attached) -> None:
    for path in (CHAT, "/admin/v1/keys"):
        for encoding in ("gzip", "br"):
            answer = httpx.post(attached.url + path, content=b"junk", headers={"content-encoding": encoding})
            assert answer.status_code == 401


def test_an_upload_is_packed_already(attached: Attached) -> None:
    form = {"content-encoding": "gzip", "content-type": "multipart/form-data; boundary=x"}
    answer = attached.http.post("/admin/v1/adapters", content=gzip.compress(b"--x--"), headers=form)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert KEY not in answer.text
