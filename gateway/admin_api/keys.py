"""Admin API for API keys and tenants: create (the key is shown once), list, show, change, rotate, revoke, delete."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import AfterValidator, ConfigDict, Field
from pydantic import BaseModel as Schema

from gateway.admin_api.adapter_documents import body_of, read_body
from gateway.auth import ApiKeyService, Budget, Caller, KeyRecord, Limits, Period, Scope, Tenant
from gateway.auth.records import key_document, tenant_document
from gateway.clock import now_us, to_us
from gateway.errors import InvalidRequestError
from gateway.metering import SHADOW_KEY
from gateway.money import nano
from gateway.quota import BudgetStatuses
from gateway.threads import CRITICAL, REPORTS

_Limit = Annotated[int | None, Field(ge=1, le=10**15)]
_Usd = Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=9)]
_Pattern = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._/*?\[\]!-]+$")]
_LIMITS = ("rpm", "tpm", "max_concurrency", "max_tokens")
TENANT = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
_YEARS = range(1971, 3000)


def _no_own_name(tenant: str) -> str:
    if tenant == SHADOW_KEY:
        raise ValueError(f"'{SHADOW_KEY}' is reserved for shadow requests; take another name")
    return tenant


def _in_utc(moment: datetime) -> datetime:
    if moment.year not in _YEARS:
        raise ValueError(f"a key can expire in the years {_YEARS[0]} to {_YEARS[-1]}")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


_Moment = Annotated[datetime, AfterValidator(_in_utc)]
TenantName = Annotated[str, Field(pattern=TENANT), AfterValidator(_no_own_name)]


class BudgetBody(Schema):
    """JSON of a budget: maximum spend in dollars per period."""

    model_config = ConfigDict(extra="forbid")
    usd: _Usd
    period: Period


class AccountBody(Schema):
    """Limits and budgets of a key or tenant; null is none. `budget_usd` with `budget_period` gives one budget."""

    model_config = ConfigDict(extra="forbid")
    rpm: _Limit = Field(None, description="Requests per minute.")
    tpm: _Limit = Field(None, description="Tokens per minute.")
    max_concurrency: _Limit = Field(None, description="Requests at a time.")
    max_tokens: _Limit = Field(None, description="Tokens that one request may ask for.")
    budget_usd: _Usd | None = None
    budget_period: Period = Period.MONTH
    budgets: list[BudgetBody] | None = None

    def limits(self, before: Limits) -> Limits:
        """Return the present limits, changed where the body has the field."""
        return Limits(**{name: getattr(self if self.has(name) else before, name) for name in _LIMITS})

    def chosen_budgets(self, before: tuple[Budget, ...]) -> tuple[Budget, ...]:
        """Return the budgets in the body, else the present ones; raises `InvalidRequestError` for two of one period."""
        if not self.has("budgets") and not self.has("budget_usd"):
            if self.has("budget_period"):
                raise InvalidRequestError("'budget_period' needs 'budget_usd' beside it.", param="budget_period")
            return before
        given = [Budget(nano(budget.usd), budget.period) for budget in self.budgets or ()]
        if self.budget_usd is not None:
            given.append(Budget(nano(self.budget_usd), self.budget_period))
        if len({budget.period for budget in given}) < len(given):
            raise InvalidRequestError("There can be one budget a day, one a month and one in total.", param="budgets")
        return tuple(given)

    def has(self, field: str) -> bool:
        """Whether the body has this field, null included."""
        return field in self.model_fields_set


class NewKeyBody(AccountBody):
    """JSON body of a new key."""

    name: str = Field(min_length=1, max_length=200, description="For people; need not be unique.")
    tenant: TenantName = "default"
    scopes: list[Scope] = Field([Scope.INFERENCE], min_length=1)
    adapters: list[_Pattern] = Field(["*"], max_length=1000, description="Patterns of model names it may use.")
    expires_at: _Moment | None = None

    def draft(self) -> KeyRecord:
        """Return the record without what the service adds: id, digest and time of creation."""
        return KeyRecord(
            id="",
            name=self.name,
            tenant=self.tenant,
            scopes=frozenset(self.scopes),
            adapters=tuple(self.adapters),
            limits=self.limits(Limits()),
            budgets=self.chosen_budgets(()),
            digest=b"",
            created_us=0,
            expires_us=_us(self.expires_at),
        )


class KeyChangesBody(AccountBody):
    """JSON body of a change: absent fields stay as they are, null removes a limit, budget or expiry."""

    name: str = Field("", min_length=1, max_length=200)
    scopes: list[Scope] = Field([], min_length=1)
    adapters: list[_Pattern] = Field([], max_length=1000)
    expires_at: _Moment | None = None

    def values(self, key: KeyRecord) -> dict[str, Any]:
        """Return the changed fields of the record."""
        changes: dict[str, Any] = {"limits": self.limits(key.limits), "budgets": self.chosen_budgets(key.budgets)}
        named = {
            "name": self.name,
            "scopes": frozenset(self.scopes),
            "adapters": tuple(self.adapters),
        }
        changes |= {field: value for field, value in named.items() if self.has(field)}
        return changes | ({"expires_us": _us(self.expires_at)} if self.has("expires_at") else {})


class RotationBody(Schema):
    """JSON body of a rotation; may be empty: then the previous secret is invalid at once."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: int = Field(
        0,
        ge=0,
        le=366 * 86_400,
        description="How long the previous secret stays valid; 0 invalidates every earlier one at once.",
    )


class TenantBody(AccountBody):
    """JSON body of a tenant."""

    def draft(self, name: str) -> Tenant:
        """Return the tenant without its time of creation."""
        return Tenant(name, self.limits(Limits()), self.chosen_budgets(()), created_us=0)

    def values(self, tenant: Tenant) -> dict[str, Any]:
        """Return the changed fields of the record."""
        return {"limits": self.limits(tenant.limits), "budgets": self.chosen_budgets(tenant.budgets)}


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


_Name = Annotated[str, Path(pattern=TENANT)]


def key_routes(
    service: ApiKeyService, budgets: BudgetStatuses, admin: Any, delete_feedback: Callable[..., object]
) -> APIRouter:
    """Build the routes below /admin/v1/keys and /admin/v1/tenants.

    `admin` is the dependency that requires an admin key; `delete_feedback` deletes the feedback of a tenant.
    """
    routes = APIRouter(prefix="/admin/v1")
    _add_keys(routes, service, budgets, admin)
    _add_key_endings(routes, service, admin)
    _add_tenants(routes, service, budgets, admin, delete_feedback)
    return routes


def _add_keys(routes: APIRouter, service: ApiKeyService, budgets: BudgetStatuses, admin: Any) -> None:
    @routes.post("/keys", status_code=201, tags=["keys"], openapi_extra=body_of(NewKeyBody))
    async def create(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Create a key. `key` in the response is shown this once and stored nowhere."""
        draft = read_body(NewKeyBody, await request.body()).draft()
        made, secret = await CRITICAL.run(service.create, draft, actor=caller.key_id)
        return {"key": secret, **key_document(made, now_us())}

    @routes.get("/keys", tags=["keys"], dependencies=[Depends(admin)])
    def list_keys(tenant: str | None = None) -> dict[str, Any]:
        """List all keys ever created, or those of a tenant, the oldest first."""
        now = now_us()
        return {"object": "list", "data": [key_document(key, now) for key in service.keys(tenant)]}

    @routes.get("/keys/{key_id}", tags=["keys"], dependencies=[Depends(admin)])
    def get_key(key_id: str) -> dict[str, Any]:
        """Get a key by its public id, with the spent and remaining amounts of its budgets."""
        key = service.key(key_id)
        return key_document(key, now_us()) | {"spending": budgets.documents(key.account)}

    @routes.patch("/keys/{key_id}", tags=["keys"], openapi_extra=body_of(KeyChangesBody))
    async def change(key_id: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Change name, scopes, adapters, limits, budgets or expiry; running requests are not affected."""
        body = read_body(KeyChangesBody, await request.body())
        changed = await CRITICAL.run(service.change, key_id, body.values, actor=caller.key_id)
        return key_document(changed, now_us())


def _add_key_endings(routes: APIRouter, service: ApiKeyService, admin: Any) -> None:
    @routes.post("/keys/{key_id}/rotate", tags=["keys"], openapi_extra=body_of(RotationBody, required=False))
    async def rotate(key_id: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Rotate the secret of a key. The new one is shown this once; the previous one stays valid for `overlap_s`."""
        overlap_us = read_body(RotationBody, await request.body()).overlap_s * 10**6
        rotated, secret = await CRITICAL.run(service.rotate, key_id, overlap_us=overlap_us, actor=caller.key_id)
        return {"key": secret, **key_document(rotated, now_us())}

    @routes.delete("/keys/{key_id}", tags=["keys"])
    async def revoke(key_id: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Revoke a key permanently: at once on this gateway, within a second on others."""
        return key_document(await CRITICAL.run(service.revoke, key_id, actor=caller.key_id), now_us())


def _add_tenants(
    routes: APIRouter,
    service: ApiKeyService,
    budgets: BudgetStatuses,
    admin: Any,
    delete_feedback: Callable[..., object],
) -> None:
    @routes.put("/tenants/{name}", tags=["tenants"], openapi_extra=body_of(TenantBody))
    async def put(name: _Name, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Create a tenant or replace its limits and budgets, which apply to all its keys together."""
        draft = read_body(TenantBody, await request.body()).draft(name)
        return tenant_document(await CRITICAL.run(service.put_tenant, draft, actor=caller.key_id))

    @routes.get("/tenants", tags=["tenants"], dependencies=[Depends(admin)])
    def list_tenants() -> dict[str, Any]:
        """List the tenants with limits or budgets of their own."""
        return {"object": "list", "data": [tenant_document(tenant) for tenant in service.tenants()]}

    @routes.get("/tenants/{name}", tags=["tenants"], dependencies=[Depends(admin)])
    def get_tenant(name: str) -> dict[str, Any]:
        """Get a tenant, with the spending of its keys and the remaining amounts of its budgets."""
        tenant = service.tenant(name)
        return tenant_document(tenant) | {"spending": budgets.documents(tenant.account)}

    @routes.patch("/tenants/{name}", tags=["tenants"], openapi_extra=body_of(TenantBody))
    async def patch(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Change limits or budgets of a tenant."""
        body = read_body(TenantBody, await request.body())
        return tenant_document(await CRITICAL.run(service.change_tenant, name, body.values, actor=caller.key_id))

    @routes.delete("/tenants/{name}", tags=["tenants"])
    async def delete(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Delete limits, budgets and feedback of a tenant; 409 while it has active keys."""
        deleted = await CRITICAL.run(service.delete_tenant, name, actor=caller.key_id)
        await REPORTS.run(delete_feedback, name, actor=caller.key_id)
        return tenant_document(deleted)
