"""Keys and tenants as they are stored."""

from dataclasses import dataclass
from enum import StrEnum

from gateway.keys.caller import Account, Budget, Caller, Limits, Scope


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
