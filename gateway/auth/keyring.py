"""The keyring: from the key that a request carries to its caller, in memory and in constant time."""

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
class _Held:
    """A key as requests meet it; times are seconds since the epoch."""

    caller: Caller
    digest: bytes
    ends_s: float | None = None
    old_digest: bytes = b""
    old_ends_s: float = 0


class Keyring:
    """Looks up the caller of a key: one dictionary access by its public id, and one comparison of keyed hashes.

    A key that nobody gave out is compared too, with the admin key, so that time tells nothing.
    """

    def __init__(self, admin_key: str, key_hash: KeyHash) -> None:
        self._hash = key_hash
        self._admin = _Held(_ADMIN, key_hash.digest(admin_key.encode()))
        self._held: Mapping[bytes, _Held] = {}

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The caller of `Authorization: Bearer tt-…`, or of Anthropic's `x-api-key`; raises `AuthenticationError`."""
        given = headers.get(b"authorization", b"")
        key = (given[7:] if given[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")).strip()
        if not key:
            raise AuthenticationError(
                "You did not provide an API key; send it as 'Authorization: Bearer tt-…'.", code="missing_api_key"
            )
        digest = self._hash.digest(key)
        held = self._held.get(key[PUBLIC_ID], self._admin)
        ends_s = held.ends_s
        if not compare_digest(digest, held.digest):
            ends_s = _end_of_old(held, digest)
        if ends_s is not None and ends_s <= time.time():
            raise AuthenticationError("This API key has expired or was revoked; ask the operator for another one.")
        return held.caller

    def update(self, keys: Iterable[KeyRecord], tenants: Mapping[str, Account]) -> None:
        """Take in keys that are new or have changed, each with its tenant's account; all at once."""
        changed = {key.id.encode(): _hold(key, tenants) for key in keys}
        self._held = {**self._held, **changed}


def _end_of_old(held: _Held, digest: bytes) -> float | None:
    """When a secret ends that a rotation has replaced; raises `AuthenticationError` for whatever never was one."""
    if not held.old_digest or not compare_digest(digest, held.old_digest):
        raise AuthenticationError("Incorrect API key provided; check the key or ask the operator for one.")
    return held.old_ends_s if held.ends_s is None else min(held.ends_s, held.old_ends_s)


def _hold(key: KeyRecord, tenants: Mapping[str, Account]) -> _Held:
    tenant = tenants.get(key.tenant) or tenant_account(key.tenant, Limits(), ())
    ends_us = key.ends_us
    return _Held(
        key.caller(tenant),
        key.digest,
        None if ends_us is None else ends_us / 1e6,
        key.old_digest or b"",
        (key.old_until_us or 0) / 1e6,
    )
