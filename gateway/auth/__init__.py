"""API keys and tenants: authentication, scopes, limits and budgets."""

from gateway.auth.caller import Account, Budget, Caller, Limits, Period, Scope
from gateway.auth.keyring import Keyring
from gateway.auth.records import KeyRecord, Tenant
from gateway.auth.service import ApiKeyService

__all__ = [
    "Account",
    "ApiKeyService",
    "Budget",
    "Caller",
    "KeyRecord",
    "Keyring",
    "Limits",
    "Period",
    "Scope",
    "Tenant",
]
