"""Records of API keys and tenants, and their JSON for the admin API and the audit log: never a secret or its hash."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gateway.auth.caller import Account, Budget, Caller, Limits, Scope
from gateway.clock import iso_or_none
from gateway.money import usd_plain


class KeyState(StrEnum):
    """Lifecycle of an API key."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A group of keys with limits and budgets over all of them; `deleted_us` is set once it was deleted."""

    name: str
    limits: Limits
    budgets: tuple[Budget, ...]
    created_us: int
    deleted_us: int | None = None

    @property
    def account(self) -> Account:
        """The tenant's account."""
        return tenant_account(self.name, self.limits, self.budgets)


def tenant_account(name: str, limits: Limits, budgets: tuple[Budget, ...]) -> Account:
    """Return the account of a tenant; a tenant without a row has neither limits nor budgets."""
    return Account(f"tenant:{name}", limits, budgets)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One API key. After a rotation the secret with `old_digest` is valid until `old_until_us`."""

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
        """Return the state of the key at a time."""
        if self.revoked_us is not None:
            return KeyState.REVOKED
        if self.expires_us is not None and self.expires_us <= now_us:
            return KeyState.EXPIRED
        return KeyState.ACTIVE

    @property
    def expiry_us(self) -> int | None:
        """When the key stops working; 0 for a revoked key, None for never."""
        return self.expires_us if self.revoked_us is None else 0

    @property
    def account(self) -> Account:
        """The key's account."""
        return Account(f"key:{self.id}", self.limits, self.budgets)

    def caller(self, tenant: Account) -> Caller:
        """Return the caller of requests with this key; `tenant` is the account of its tenant."""
        return Caller(self.id, self.tenant, self.scopes, self.adapters, (self.account, tenant))


def key_document(key: KeyRecord, now_us: int) -> dict[str, Any]:
    """Return a key as JSON for the admin API; amounts are decimal text, times ISO 8601."""
    return {
        "id": key.id,
        "state": key.state(now_us),
        **key_settings(key),
        "created_at": iso_or_none(key.created_us),
        "revoked_at": iso_or_none(key.revoked_us),
    }


def key_settings(key: KeyRecord) -> dict[str, Any]:
    """Return the settings of a key as JSON; `old_secret_until` is when the previous secret expires."""
    return {
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "adapters": list(key.adapters),
        **asdict(key.limits),
        "budgets": _budgets(key.budgets),
        "expires_at": iso_or_none(key.expires_us),
        "old_secret_until": iso_or_none(key.old_until_us),
    }


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    """Return a tenant as JSON for the admin API."""
    return {"name": tenant.name, **tenant_settings(tenant), "created_at": iso_or_none(tenant.created_us)}


def tenant_settings(tenant: Tenant) -> dict[str, Any]:
    """Return the settings of a tenant as JSON."""
    return {**asdict(tenant.limits), "budgets": _budgets(tenant.budgets)}


def _budgets(chosen: Iterable[Budget]) -> list[dict[str, str]]:
    """Return budgets in dollars, exactly, like `{"usd": "25", "period": "month"}`."""
    return [{"usd": usd_plain(budget.nano_usd), "period": budget.period} for budget in chosen]
