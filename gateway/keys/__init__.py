"""Keys and tenants: who may call, for what, and within which limits and budgets."""

from gateway.keys.caller import Account, Budget, Caller, Limits, Period, Scope
from gateway.keys.keyring import Keyring
from gateway.keys.office import KeyOffice
from gateway.keys.records import KeyRecord, Tenant

__all__ = ["Account", "Budget", "Caller", "KeyOffice", "KeyRecord", "Keyring", "Limits", "Period", "Scope", "Tenant"]
