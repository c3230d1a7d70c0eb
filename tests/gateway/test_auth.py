"""Keys: who gets in, and where the admin key is kept."""

import stat
from pathlib import Path

import pytest

from gateway.auth import KEY_PREFIX, Keyring, load_or_create_admin_key
from gateway.errors import AuthenticationError

KEYRING = Keyring("tt-secret")


def authorization(value: bytes) -> dict[bytes, bytes]:
    return {b"host": b"x", b"authorization": value}


@pytest.mark.parametrize("value", [b"Bearer tt-secret", b"bearer tt-secret", b"Bearer  tt-secret "])
def test_the_key_is_accepted(value: bytes) -> None:
    assert KEYRING.authenticate(authorization(value)).is_admin


def test_the_key_is_accepted_where_anthropic_clients_put_it() -> None:
    assert KEYRING.authenticate({b"x-api-key": b"tt-secret"}).is_admin
    with pytest.raises(AuthenticationError):
        KEYRING.authenticate({b"x-api-key": b"tt-secret", b"authorization": b"Bearer tt-other"})


@pytest.mark.parametrize(
    "value",
    [b"Bearer tt-secre", b"Bearer tt-secrett", b"Bearer TT-SECRET", b"Basic tt-secret", b"tt-secret", b"Bearer ", b""],
)
def test_anything_else_is_refused(value: bytes) -> None:
    with pytest.raises(AuthenticationError):
        KEYRING.authenticate(authorization(value))


def test_no_header_is_refused_and_told_apart_from_a_wrong_key() -> None:
    with pytest.raises(AuthenticationError) as missing:
        KEYRING.authenticate({})
    with pytest.raises(AuthenticationError) as wrong:
        KEYRING.authenticate(authorization(b"Bearer nope"))
    assert (missing.value.code, wrong.value.code) == ("missing_api_key", "invalid_api_key")


def test_the_generated_key_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    key, is_new = load_or_create_admin_key(tmp_path)
    assert is_new
    assert key.startswith(KEY_PREFIX)
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    assert load_or_create_admin_key(tmp_path) == (key, False)
