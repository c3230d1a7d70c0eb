"""Keys under attack: parts of keys, hashes of keys, other people's keys, and what a key may do to itself."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.conftest import ROOT
from tests.gateway.conftest import KEY, Attached
from tests.security.conftest import bearer, request, send

KEYS = "/admin/v1/keys"


@pytest.fixture(scope="module")
def key(attached: Attached) -> Iterator[dict[str, Any]]:
    """A key for inference, as it was given out."""
    made: dict[str, Any] = attached.http.post(KEYS, json={"name": "attacked", "tenant": "acme"}).json()
    yield made
    attached.http.delete(f"{KEYS}/{made['id']}")


def status(attached: Attached, key: bytes) -> int:
    return send(attached.url, request(b"/v1/models", b"authorization: Bearer " + key)).status


def test_no_part_and_no_relative_of_a_key_is_a_key(attached: Attached, key: dict[str, Any]) -> None:
    """CVE-2026-35030 / GHSA-jjhc-v7c2-5hh6: a cache looked up callers by the first 20 characters."""
    whole = key["key"].encode()
    assert status(attached, whole) == 200
    other = attached.http.post(KEYS, json={"name": "other"}).json()["key"].encode()
    parts = [whole[:length] for length in range(1, len(whole), 3)] + [whole[start:] for start in (1, 3, 16)]
    altered = [whole + b"x", whole + b"\x00", whole + whole, whole[:-1] + b"0", whole.upper(), whole.swapcase()]
    mixed = [whole[:16] + other[16:], other[:16] + whole[16:], whole.replace(b"-", b"_"), b"tt-" + whole]
    odd = [b"tt-", b"tt-admin-", b"tt-admin", b"admin", b"*", b"x" * 60_000, b"\xff" * 40, key["id"].encode()]
    for guess in (*parts, *altered, *mixed, *odd):
        assert status(attached, guess) in (400, 401), guess
    assert status(attached, whole) == 200


def test_what_the_database_holds_opens_nothing(attached: Attached, key: dict[str, Any]) -> None:
    """GHSA-69x8-hrgq-fjj8: the stored hash was taken as a key."""
    engine = create_engine(f"sqlite:///{attached.data_dir / 'turntable.db'}")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM api_keys")).mappings().all()
    engine.dispose()
    stored = [value for row in rows for value in row.values() if isinstance(value, bytes | str) and len(value) > 8]
    digest = max((row["digest"] for row in rows), key=len)
    assert len(digest) in (32, 64), "this test knows no other form of a digest"
    files = [
        path.read_bytes().strip() for path in attached.data_dir.iterdir() if path.is_file() and path.suffix != ".db"
    ]
    stored += [content for content in files if 0 < len(content) < 200 and b"\n" not in content]
    for value in stored:
        raw = value if isinstance(value, bytes) else value.encode()
        for guess in (raw, raw.hex().encode(), b"tt-" + key["id"].encode() + b"-" + raw.hex().encode()):
            if not {b"\n"[0], b"\r"[0], 0} & set(guess):
                assert status(attached, guess) in (400, 401)


def test_a_key_cannot_change_or_give_out_keys(attached: Attached, key: dict[str, Any]) -> None:
    """CVE-2026-47101, CVE-2026-47102: a user's own update raised its role; new-api GHSA-j6gc-4893-qwmp: its quota."""
    with httpx.Client(base_url=attached.url, headers={"authorization": f"Bearer {key['key']}"}) as mine:
        for method, path, body in (
            ("PATCH", f"{KEYS}/{key['id']}", {"scopes": ["admin"]}),
            ("PATCH", f"{KEYS}/{key['id']}", {"budget_usd": 1_000_000}),
            ("POST", KEYS, {"name": "x", "scopes": ["admin"]}),
            ("POST", f"{KEYS}/{key['id']}/rotate", {}),
            ("PUT", "/admin/v1/tenants/acme", {"rpm": 1_000_000}),
            ("GET", KEYS, {}),
            ("GET", "/admin/v1/audit", {}),
        ):
            assert mine.request(method, path, json=body).status_code == 403, (method, path)
    for field in ("id", "key", "digest", "key_id", "tenant_id", "created_at", "is_admin", "role", "user_role"):
        refused = attached.http.patch(f"{KEYS}/{key['id']}", json={field: "admin"})
        assert (refused.status_code, field in refused.text) == (400, True), refused.text
    assert attached.http.get(f"{KEYS}/{key['id']}").json()["scopes"] == ["inference"]


def test_one_request_carries_one_key(attached: Attached, key: dict[str, Any]) -> None:
    """Something in front could check one of two, and we the other."""
    two = request(b"/v1/models", bearer("tt-wrong"), bearer(KEY))
    assert send(attached.url, two).status == 400
    assert send(attached.url, request(b"/v1/models", bearer("tt-wrong"), b"x-api-key: " + KEY.encode())).status == 401
    for scheme in (b"Basic", b"Token", b"Bearer:", b"Bearer\t", b"Digest"):
        assert (
            send(attached.url, request(b"/v1/models", b"authorization: " + scheme + b" " + KEY.encode())).status == 401
        )


def test_secrets_are_compared_in_constant_time() -> None:
    """No `==` on a secret, a digest or a key in the rooms that hold them."""
    words = ("secret", "digest", "hash", "token", "password", "pepper", "mac")
    found = []
    for name in ("keyring", "caller", "records", "secrets"):
        found += [f"{name}:{line}" for line in _compared(ROOT / "gateway" / "auth" / f"{name}.py", words)]
    assert found == []
    assert "compare_digest" in (ROOT / "gateway" / "auth" / "keyring.py").read_text()


def test_the_search_for_comparisons_finds_one(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("a = held.digest != given\nb = held.name == given\n")
    assert list(_compared(tmp_path / "x.py", ("digest",))) == [1]


def _compared(path: Path, words: tuple[str, ...]) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            named = [ast.unparse(side).rpartition(".")[2].lower() for side in (node.left, *node.comparators)]
            if any(word in name for name in named for word in words):
                yield node.lineno
