"""Keys: who gets in, and where the admin key is kept."""

import errno
import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import Caller, Keyring, Scope
from gateway.auth.secrets import (
    KEY_PREFIX,
    PEPPER_FILE,
    KeyHash,
    PepperError,
    WeakSecretError,
    load_or_create_admin_key,
    load_pepper,
    new_id,
    new_key,
    strong_admin_key,
)
from gateway.errors import AuthenticationError
from gateway.metering.gateways import gateway_id

KEYRING = Keyring("tt-secret", KeyHash("pepper"))


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


def test_a_missing_header_and_a_wrong_key_get_different_errors() -> None:
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


@pytest.mark.parametrize("make", [load_or_create_admin_key, lambda folder: load_pepper(folder, None), gateway_id])
def test_a_secret_is_never_read_half_written_when_many_gateways_start_at_once(make: Any, tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> Any:
        together.wait()
        made = make(tmp_path)
        return made[0] if isinstance(made, tuple) else made

    with ThreadPoolExecutor(8) as pool:
        for round_ in range(20):
            for left in tmp_path.iterdir():
                left.unlink()
            (found,) = set(pool.map(start, range(8)))
            assert found, round_
    assert [path.name[0] for path in tmp_path.iterdir()] != ["."], "no scratch is left"


def test_a_file_that_is_made_whole_has_its_content_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)  # the last step before others see it
    with pytest.raises(OSError, match="No space"):
        load_or_create_admin_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "a", "k" * 31])
def test_an_admin_key_that_can_be_guessed_is_refused_with_the_fix(key: str) -> None:
    with pytest.raises(WeakSecretError, match=f"has {len(key)} characters and needs 32 or more.*openssl rand -hex 32"):
        strong_admin_key(key, "the setting admin_key")
    assert strong_admin_key("k" * 32, "admin.key") == "k" * 32


def test_the_pepper_is_kept_for_its_owner_only_and_a_weak_one_is_refused(tmp_path: Path) -> None:
    pepper = load_pepper(tmp_path, None)
    path = tmp_path / PEPPER_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_pepper(tmp_path, None) == pepper
    assert load_pepper(tmp_path, "g" * 32) == "g" * 32
    with pytest.raises(PepperError, match=r"setting key_pepper has 5 characters and needs 32.*openssl rand"):
        load_pepper(tmp_path, "short")
    path.write_text("")  # as a crash between making and writing it leaves it
    with pytest.raises(PepperError, match=r"key\.pepper has 0 characters"):
        load_pepper(tmp_path, None)
    path.unlink()
    path.mkdir()
    with pytest.raises(PepperError, match="cannot be read or written"):
        load_pepper(tmp_path, None)


def test_keys_look_alike_and_share_nothing() -> None:
    keys = [new_key(new_id()) for _ in range(1000)]
    assert all(re.fullmatch(r"tt-[a-z2-7]{12}-[a-z2-7]{32}", key) for key in keys)
    assert len({key[3:15] for key in keys}) == len({key[16:] for key in keys}) == len(keys)
    for position in (*range(3, 15), *range(16, 48)):
        assert len({key[position] for key in keys}) == 32, "every character takes every value"


@pytest.mark.parametrize(
    ("adapters", "name", "may"),
    [
        (("*",), "anything", True),
        ((), "base", False),
        (("support-*",), "support-de", True),
        (("support-*",), "my-support-de", False),
        (("support",), "support-de", False),
        (("base", "mine"), "mine", True),
        (("v[12]",), "v2", True),
        (("v[!12]",), "v2", False),
        (("mine",), "mine\n", False),
        (("a.c",), "abc", False),
    ],
)
def test_patterns_hold_for_whole_names(adapters: tuple[str, ...], name: str, may: bool) -> None:
    assert Caller("k", "t", frozenset({Scope.INFERENCE}), adapters).may_use(name) is may
