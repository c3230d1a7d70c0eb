"""Keys: who is calling. Only an HMAC of a key is held, so that comparing tells an attacker nothing."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import AuthenticationError

KEY_FILE = "admin.key"
KEY_PREFIX = "tt-"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: `key_id` is public and may be logged, the key itself never is."""

    key_id: str
    tenant: str
    is_admin: bool


class Keyring:
    """Looks up the caller of a bearer key."""

    def __init__(self, admin_key: str) -> None:
        self._pepper = secrets.token_bytes(32)
        self._admin = self._digest(admin_key.encode())
        self._admin_caller = Caller(key_id="admin", tenant="default", is_admin=True)

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller of `Authorization: Bearer tt-…`, or of Anthropic's `x-api-key`; raises `AuthenticationError`."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            key = headers.get(b"x-api-key", b"")
        if not key.strip():
            raise AuthenticationError(
                "You did not provide an API key; send it as 'Authorization: Bearer tt-…'.", code="missing_api_key"
            )
        if not hmac.compare_digest(self._digest(key.strip()), self._admin):
            raise AuthenticationError("Incorrect API key provided; check the key or ask the operator for one.")
        return self._admin_caller

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._pepper, key, hashlib.sha256)


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """The key kept in `<data dir>/admin.key` (mode 0600), and whether it was made just now."""
    path = data_dir / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip(), False
    except FileNotFoundError:
        key = KEY_PREFIX + secrets.token_urlsafe(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key + "\n")
    return key, True
