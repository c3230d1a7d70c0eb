"""API key format and hashing, and the secrets kept in files of the data directory: the admin key and the pepper.

A key is `tt-<public id>-<secret>`, and only a keyed hash of it is stored. The public id (60 bits) names the key in
logs, reports and commands. The secret (160 bits) cannot be guessed, so one fast keyed hash is enough: a slow password
hash would be paid on every request. The pepper, the key of that hash, is never in the database.
"""

import base64
import hashlib
import secrets
from pathlib import Path

from gateway.data_dir import create_whole

KEY_PREFIX = "tt-"
ID_CHARS = 12
SECRET_CHARS = 32
PUBLIC_ID = slice(len(KEY_PREFIX), len(KEY_PREFIX) + ID_CHARS)
"""Position of the public id in a key."""
ADMIN_KEY_FILE = "admin.key"
PEPPER_FILE = "key.pepper"
MIN_CHARS = 32
"""Minimum length of the admin key and of the pepper: shorter ones can be guessed, or were cut off."""
_DIGEST_BYTES = 32


class WeakSecretError(Exception):
    """A secret is too short; the message names the fix."""


class PepperError(Exception):
    """The pepper is wrong or unreadable; the message names the fix."""


class KeyHash:
    """Keyed hash of API keys: without the pepper, guesses cannot be tested against a stolen database."""

    def __init__(self, pepper: str) -> None:
        secret = hashlib.blake2b(pepper.encode(), digest_size=64).digest()  # of one length, whatever the pepper's
        self._keyed = hashlib.blake2b(key=secret, digest_size=_DIGEST_BYTES)
        self.check = self.digest(b"which pepper is this").hex()
        """Check value: equal for gateways with the same pepper, and reveals nothing else."""

    def digest(self, key: bytes) -> bytes:
        """Hash a whole key."""
        state = self._keyed.copy()  # half the cost of preparing it anew
        state.update(key)
        return state.digest()


def new_id() -> str:
    """Make a public id: 12 characters of a-z and 2-7."""
    return _random(ID_CHARS)


def new_key(key_id: str) -> str:
    """Make a key with a new secret for a public id."""
    return f"{KEY_PREFIX}{key_id}-{_random(SECRET_CHARS)}"


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """Read `<data dir>/admin.key` (mode 0600), made when it is missing; also returns whether it was made now."""
    return load_or_create_secret(data_dir / ADMIN_KEY_FILE, KEY_PREFIX + secrets.token_urlsafe(32))


def load_or_create_secret(path: Path, fresh: str) -> tuple[str, bool]:
    """Read the secret in a file, after writing `fresh` into a missing one; also returns whether it was missing."""
    is_new = not path.exists() and create_whole(path, fresh + "\n")
    return path.read_text(encoding="utf-8").strip(), is_new


def strong_admin_key(key: str, where: str) -> str:
    """Return the admin key; raises `WeakSecretError` when it is too short."""
    if len(key) < MIN_CHARS:
        raise WeakSecretError(
            f"The admin key in {where} has {len(key)} characters and needs {MIN_CHARS} or more, or it can be guessed. "
            "Make one with `openssl rand -hex 32`, or remove it, and one is made at start."
        )
    return key


def load_pepper(data_dir: Path, given: str | None) -> str:
    """Return the pepper from the settings, else from `<data dir>/key.pepper` (mode 0600, made when it is missing).

    Raises `PepperError`.
    """
    if given is not None:
        return _long_enough(given, "The setting key_pepper")
    path = data_dir / PEPPER_FILE
    try:
        kept, _ = load_or_create_secret(path, secrets.token_hex(32))
    except OSError as error:
        raise PepperError(f"{path} cannot be read or written ({error.strerror}).") from error
    return _long_enough(kept, f"The pepper in {path}")


def pepper_mismatch() -> PepperError:
    """Make the error for a database whose keys were hashed with another pepper."""
    return PepperError(
        "The keys in this database were made with another pepper, so none of them would be accepted: give this gateway "
        f"the {PEPPER_FILE} or the setting key_pepper of the gateway that made them."
    )


def _long_enough(pepper: str, what: str) -> str:
    if len(pepper) < MIN_CHARS:
        raise PepperError(
            f"{what} has {len(pepper)} characters and needs {MIN_CHARS} or more; put back the one that the keys were "
            "made with, or make one with `openssl rand -hex 32`."
        )
    return pepper


def _random(chars: int) -> str:
    return base64.b32encode(secrets.token_bytes(chars * 5 // 8 + 1)).decode().lower()[:chars]
