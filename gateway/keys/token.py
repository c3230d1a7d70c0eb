"""What a key looks like, and what is kept of it: `tt-<public id>-<secret>`, of which only a keyed hash is stored.

The public id (60 bits) names the key in logs, bills and commands; the secret (160 bits) cannot be guessed, so that one
keyed hash is enough and a slow one, made for passwords, would only be paid on every request.
"""

import base64
import hashlib
import secrets

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
