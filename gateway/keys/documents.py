"""How keys and tenants look in JSON: on the admin surface and on the audit log, never with a secret or its hash."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gateway.keys.caller import Budget
from gateway.keys.records import KeyRecord, Tenant


def key_document(key: KeyRecord, now_us: int) -> dict[str, Any]:
    """A key as the admin surface shows it; amounts are decimal text, times ISO 8601."""
    return {
        "id": key.id,
        "state": key.state(now_us),
        **key_settings(key),
        "created_at": iso(key.created_us),
        "revoked_at": iso(key.revoked_us),
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
        "expires_at": iso(key.expires_us),
        "old_secret_until": iso(key.old_until_us),
    }


def tenant_document(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the admin surface shows it."""
    return {"name": tenant.name, **tenant_settings(tenant), "created_at": iso(tenant.created_us)}


def tenant_settings(tenant: Tenant) -> dict[str, Any]:
    """What can be chosen about a tenant."""
    return {**asdict(tenant.limits), "budgets": budgets(tenant.budgets)}


def budgets(chosen: Iterable[Budget]) -> list[dict[str, str]]:
    """Budgets in dollars, exactly, like `{"usd": "25", "period": "month"}`."""
    return [{"usd": _usd(budget.nano_usd), "period": budget.period} for budget in chosen]


def iso(at_us: int | None) -> str | None:
    """Microseconds since the epoch as ISO 8601 in UTC."""
    return None if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC).isoformat()


def _usd(nano_usd: int) -> str:
    return format((Decimal(nano_usd) / 10**9).normalize(), "f")
