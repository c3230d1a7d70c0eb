"""Authentication of requests: looks an API key up in memory and compares its hash in constant time."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest

from gateway.auth.caller import Account, Caller, Limits, Scope
from gateway.auth.records import KeyRecord, tenant_account
from gateway.auth.secrets import PUBLIC_ID, KeyHash
from gateway.errors import AuthenticationError

_ADMIN = Caller(key_id="admin", tenant="default", scopes=frozenset(Scope))


@dataclass(frozen=True, slots=True)
class _Credential:
    """A key's current and previous secret hash; times are seconds since the epoch."""

    caller: Caller
    digest: bytes
    expires_s: float | None = None
    old_digest: bytes = b""
    old_expires_s: float = 0


class Keyring:
    """In-memory lookup of API keys by public id; one comparison of keyed hashes per request.

    An unknown key is compared with the admin key, so that the time taken does not reveal whether an id exists.
    """

    def __init__(self, admin_key: str, key_hash: KeyHash) -> None:
        self._hash = key_hash
        self._admin = _Credential(_ADMIN, key_hash.digest(admin_key.encode()))
        self._credentials: Mapping[bytes, _Credential] = {}
        self.revision = 0
        """Grows with every change of a key or tenant."""

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the caller by `Authorization: Bearer tt-…` or `x-api-key`; raises `AuthenticationError`."""
        given = headers.get(b"authorization", b"")
        key = (given[7:] if given[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")).strip()
        if not key:
            raise AuthenticationError(
                "You did not provide an API key; send it as 'Authorization: Bearer tt-…'.", code="missing_api_key"
            )
        digest = self._hash.digest(key)
        credential = self._credentials.get(key[PUBLIC_ID], self._admin)
        expires_s = credential.expires_s
        if not compare_digest(digest, credential.digest):
            expires_s = _old_expiry(credential, digest)
        if expires_s is not None and expires_s <= time.time():
            raise AuthenticationError("This API key has expired or was revoked; ask the operator for another one.")
        return credential.caller

    def update(self, keys: Iterable[KeyRecord], tenants: Mapping[str, Account]) -> None:
        """Replace new and changed keys, each with its tenant's account, in one step."""
        changed = {key.id.encode(): _credential(key, tenants) for key in keys}
        self._credentials = {**self._credentials, **changed}
        self.revision += 1


def _old_expiry(credential: _Credential, digest: bytes) -> float | None:
    """Return when the previous secret expires; raises `AuthenticationError` when `digest` is not its hash."""
    if not credential.old_digest or not compare_digest(digest, credential.old_digest):
        raise AuthenticationError("Incorrect API key provided; check the key or ask the operator for one.")
    return (
        credential.old_expires_s
        if credential.expires_s is None
        else min(credential.expires_s, credential.old_expires_s)
    )


def _credential(key: KeyRecord, tenants: Mapping[str, Account]) -> _Credential:
    tenant = tenants.get(key.tenant) or tenant_account(key.tenant, Limits(), ())
    expiry_us = key.expiry_us
    return _Credential(
        key.caller(tenant),
        key.digest,
        None if expiry_us is None else expiry_us / 1e6,
        key.old_digest or b"",
        (key.old_until_us or 0) / 1e6,
    )
