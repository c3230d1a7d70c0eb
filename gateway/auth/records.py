"""How keys and tenants look in JSON: on the admin surface and on the audit log, never with a secret or its hash.

Keys and tenants as they are stored.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gateway.auth.caller import Account, Budget, Caller, Limits, Scope
from gateway.clock import iso_or_none
from gateway.money import usd_plain


class KeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who pays for a group of keys, with limits and budgets over all of them; `deleted_us` when there is none now."""

    name: str
    limits: Limits
    budgets: tuple[Budget, ...]
    created_us: int
    deleted_us: int | None = None

    @property
    def account(self) -> Account:
        """What its limits and budgets are kept for."""
        return tenant_account(self.name, self.limits, self.budgets)


def tenant_account(name: str, limits: Limits, budgets: tuple[Budget, ...]) -> Account:
    """The account of a tenant, which needs no row: without one it has neither limits nor budgets."""
    return Account(f"tenant:{name}", limits, budgets)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Times are microseconds since the epoch; `old_digest` is what a rotation replaced, good until then."""

    id: str
    name: str
    tenant: str
    scopes: frozenset[Scope]
    adapters: tuple[str, ...]
    limits: Limits
    budgets: tuple[Budget, ...]
    digest: bytes
    created_us: int
    old_digest: bytes | None = None
    old_until_us: int | None = None
    expires_us: int | None = None
    revoked_us: int | None = None

    def state(self, now_us: int) -> KeyState:
        """Whether it opens anything at that moment."""
        if self.revoked_us is not None:
            return KeyState.REVOKED
        if self.expires_us is not None and self.expires_us <= now_us:
            return KeyState.EXPIRED
        return KeyState.ACTIVE

    @property
    def ends_us(self) -> int | None:
        """From when on it opens nothing."""
        return self.expires_us if self.revoked_us is None else 0

    @property
    def account(self) -> Account:
        """What its limits and budgets are kept for."""
        return Account(f"key:{self.id}", self.limits, self.budgets)

    def caller(self, tenant: Account) -> Caller:
        """Who sends requests with it."""
        return Caller(self.id, self.tenant, self.scopes, self.adapters, (self.account, tenant))


def key_document(key: KeyRecord, now_us: int) -> dict[str, Any]:
    """A key as the admin surface shows it; amounts are decimal text, times ISO 8601."""
    return {
        "id": key.id,
        "state": key.state(now_us),
        **key_settings(key),
        "created_at": iso_or_none(key.created_us),
        "revoked_at": iso_or_none(key.revoked_us),
    }


def key_settings(key: KeyRecord) -> dict[str, Any]:
    """What can be chosen about a key; `old_secret_until` is when the one before the last rotation ends."""
    return {
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "adapters": list(key.adapters),
        **asdict(key.limits),
        "budgets": budgets(key.budgets),
        "expires_at": iso_or_none(key.expires_us),
        "old_secret_until": iso_or_none(key.old_until_us),
    }


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the admin surface shows it."""
    return {"name": tenant.name, **tenant_settings(tenant), "created_at": iso_or_none(tenant.created_us)}


def tenant_settings(tenant: Tenant) -> dict[str, Any]:
    """What can be chosen about a tenant."""
    return {**asdict(tenant.limits), "budgets": budgets(tenant.budgets)}


def budgets(chosen: Iterable[Budget]) -> list[dict[str, str]]:
    """Budgets in dollars, exactly, like `{"usd": "25", "period": "month"}`."""
    return [{"usd": usd_plain(budget.nano_usd), "period": budget.period} for budget in chosen]
