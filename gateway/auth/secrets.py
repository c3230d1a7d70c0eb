"""The pepper: the secret that keys are hashed under, kept beside the data and never in the database.

What a key looks like, and what is kept of it: `tt-<public id>-<secret>`, of which only a keyed hash is stored.

The public id (60 bits) names the key in logs, bills and commands; the secret (160 bits) cannot be guessed, so that one
keyed hash is enough and a slow one, made for passwords, would only be paid on every request.

Secrets kept in files of the data directory, readable by their owner alone: the admin key, the pepper.
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
"""Where the public id stands in a key; in anything else, whatever stands there."""
_DIGEST_BYTES = 32


def new_id() -> str:
    """A public id: 12 characters of a-z and 2-7."""
    return _random(ID_CHARS)


def new_key(key_id: str) -> str:
    """A key with a new secret under a public id."""
    return f"{KEY_PREFIX}{key_id}-{_random(SECRET_CHARS)}"


class KeyHash:
    """Hashes keys under a pepper, so that whoever reads the database has nothing to test guesses against."""

    def __init__(self, pepper: str) -> None:
        secret = hashlib.blake2b(pepper.encode(), digest_size=64).digest()  # whatever its length was
        self._keyed = hashlib.blake2b(key=secret, digest_size=_DIGEST_BYTES)
        self.check = self.digest(b"which pepper is this").hex()
        """Tells whether two gateways have the same pepper, and nothing else."""

    def digest(self, key: bytes) -> bytes:
        """The keyed hash of a whole key. A copy of the prepared state costs half of preparing it anew."""
        state = self._keyed.copy()
        state.update(key)
        return state.digest()


def _random(chars: int) -> str:
    return base64.b32encode(secrets.token_bytes(chars * 5 // 8 + 1)).decode().lower()[:chars]


ADMIN_KEY_FILE = "admin.key"
MIN_CHARS = 32
"""Of the admin key and of the pepper: what is shorter can be guessed, or was cut off."""


class WeakSecretError(Exception):
    """A secret is too short to be one; the message says how to come by a better one."""


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """The key kept in `<data dir>/admin.key` (mode 0600), and whether it was made just now."""
    return load_or_create_secret(data_dir / ADMIN_KEY_FILE, KEY_PREFIX + secrets.token_urlsafe(32))


def load_or_create_secret(path: Path, fresh: str) -> tuple[str, bool]:
    """The secret kept in a file: the one that is there, else `fresh`; and whether it was made just now."""
    is_new = not path.exists() and create_whole(path, fresh + "\n")
    return path.read_text(encoding="utf-8").strip(), is_new


def strong_admin_key(key: str, where: str) -> str:
    """The key, unless it is too short; raises `WeakSecretError`."""
    if len(key) < MIN_CHARS:
        raise WeakSecretError(
            f"The admin key in {where} has {len(key)} characters and needs {MIN_CHARS} or more, or it can be guessed. "
            "Make one with `openssl rand -hex 32`, or remove it, and one is made at start."
        )
    return key


PEPPER_FILE = "key.pepper"


class PepperError(Exception):
    """The pepper cannot be used; the message says how to come by the right one."""


def load_pepper(data_dir: Path, given: str | None) -> str:
    """The pepper from the settings, else the one in `<data dir>/key.pepper` (mode 0600, made when first needed)."""
    if given is not None:
        return _long_enough(given, "The setting key_pepper")
    path = data_dir / PEPPER_FILE
    try:
        kept, _ = load_or_create_secret(path, secrets.token_hex(32))
    except OSError as error:
        raise PepperError(f"{path} cannot be read or written ({error.strerror}).") from error
    return _long_enough(kept, f"The pepper in {path}")


def mismatch() -> PepperError:
    """Keys in this database were hashed under another pepper."""
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
