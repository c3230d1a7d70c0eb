"""Who is calling: what a key may do, and which accounts its requests are limited and paid by."""

import fnmatch
import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import MissingScopeError


class Scope(StrEnum):
    """What a key opens; `ADMIN` opens everything."""

    INFERENCE = "inference"
    USAGE = "usage"
    METRICS = "metrics"
    ADMIN = "admin"


class Period(StrEnum):
    """How long a budget lasts before it begins anew, by the UTC calendar; `TOTAL` never does."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute, requests at a time, tokens that one request may ask for; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Money that may be spent per period."""

    nano_usd: int
    period: Period


@dataclass(frozen=True, slots=True)
class Account:
    """What limits and budgets are kept for: `key:<key id>` or `tenant:<name>`."""

    id: str
    limits: Limits
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: `key_id` is public and may be logged, the key itself never is.

    `adapters` are patterns of the model names that it may use (`*` for all; the base goes by its served name);
    `accounts` are its key's, then its tenant's, and none for the admin key, which is never limited.
    """

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    adapters: tuple[str, ...] = ("*",)
    accounts: tuple[Account, ...] = ()

    @property
    def is_admin(self) -> bool:
        """Whether it may operate the gateway."""
        return Scope.ADMIN in self.scopes

    def demand(self, scope: Scope) -> None:
        """Raise `MissingScopeError` unless its key opens `scope`."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise MissingScopeError(scope)

    def may_see(self, tenant: str) -> bool:
        """Whether it may read what a tenant used: its own, or anybody's as an admin."""
        return tenant == self.tenant or self.is_admin

    def may_use(self, name: str) -> bool:
        """Whether it may ask the base or an adapter of this name, in any version."""
        return "*" in self.adapters or _pattern(self.adapters).fullmatch(name) is not None


@functools.lru_cache(maxsize=4096)
def _pattern(adapters: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns, since many keys share them; no pattern allows nothing."""
    return re.compile("|".join(map(fnmatch.translate, adapters)) or r"(?!)")
