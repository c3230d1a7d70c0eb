"""The caller of a request: scopes, allowed models, and the accounts whose limits and budgets apply."""

import fnmatch
import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import MissingScopeError


class Scope(StrEnum):
    """Permissions of an API key; `ADMIN` includes all others."""

    INFERENCE = "inference"
    USAGE = "usage"
    METRICS = "metrics"
    ADMIN = "admin"


class Period(StrEnum):
    """Renewal period of a budget, by the UTC calendar; `TOTAL` never renews."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Limits:
    """Rate limits: requests and tokens per minute, concurrent requests, output tokens per request; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Maximum spend per period."""

    nano_usd: int
    period: Period


@dataclass(frozen=True, slots=True)
class Account:
    """Holder of limits and budgets: `key:<key id>` or `tenant:<name>`."""

    id: str
    limits: Limits
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request; `key_id` is public and may be logged, the key itself never is.

    `adapters` are patterns of allowed model names (`*` for all; the base goes by its served name). `accounts` are those
    of the key and of its tenant, in this order; the admin key has none, so it is never limited.
    """

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    adapters: tuple[str, ...] = ("*",)
    accounts: tuple[Account, ...] = ()

    @property
    def is_admin(self) -> bool:
        """Whether the key has the admin scope."""
        return Scope.ADMIN in self.scopes

    def require_scope(self, scope: Scope) -> None:
        """Raise `MissingScopeError` unless the key has `scope`."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise MissingScopeError(scope)

    def may_see(self, tenant: str) -> bool:
        """Whether the key may read the usage of a tenant: its own, or any with the admin scope."""
        return tenant == self.tenant or self.is_admin

    def may_use(self, name: str) -> bool:
        """Whether the key may use the base model or an adapter of this name, in any version."""
        return "*" in self.adapters or _pattern(self.adapters).fullmatch(name) is not None


@functools.lru_cache(maxsize=4096)
def _pattern(adapters: tuple[str, ...]) -> re.Pattern[str]:
    """Compile all patterns into one, which many keys share; no pattern allows nothing."""
    return re.compile("|".join(map(fnmatch.translate, adapters)) or r"(?!)")
