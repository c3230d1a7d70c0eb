"""What the admin surface takes about keys and tenants, and how it becomes what is stored.

The admin surface for keys and tenants: create (shown once), list, show, change, rotate, revoke.
"""

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
        raise ValueError(f"'{SHADOW_KEY}' is what mirrored requests are booked under, take another name")
    return tenant


def _in_utc(moment: datetime) -> datetime:
    if moment.year not in _YEARS:
        raise ValueError(f"a key can expire in the years {_YEARS[0]} to {_YEARS[-1]}")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


_Moment = Annotated[datetime, AfterValidator(_in_utc)]
TenantName = Annotated[str, Field(pattern=TENANT), AfterValidator(_no_own_name)]


class BudgetBody(Schema):
    """Dollars that may be spent per period."""

    model_config = ConfigDict(extra="forbid")
    usd: _Usd
    period: Period


class AccountBody(Schema):
    """Limits and budgets of a key or tenant; null is none. `budgets` is the long form of `budget_usd` a period."""

    model_config = ConfigDict(extra="forbid")
    rpm: _Limit = Field(None, description="Requests per minute.")
    tpm: _Limit = Field(None, description="Tokens per minute.")
    max_concurrency: _Limit = Field(None, description="Requests at a time.")
    max_tokens: _Limit = Field(None, description="Tokens that one request may ask for.")
    budget_usd: _Usd | None = None
    budget_period: Period = Period.MONTH
    budgets: list[BudgetBody] | None = None

    def limits(self, before: Limits) -> Limits:
        """The limits that were, with those that the body names."""
        return Limits(**{name: getattr(self if self.names(name) else before, name) for name in _LIMITS})

    def chosen_budgets(self, before: tuple[Budget, ...]) -> tuple[Budget, ...]:
        """The budgets that the body names, else those that were; raises `InvalidRequestError` for two of a period."""
        if not self.names("budgets") and not self.names("budget_usd"):
            if self.names("budget_period"):
                raise InvalidRequestError("'budget_period' needs 'budget_usd' beside it.", param="budget_period")
            return before
        given = [Budget(nano(one.usd), one.period) for one in self.budgets or ()]
        if self.budget_usd is not None:
            given.append(Budget(nano(self.budget_usd), self.budget_period))
        if len({budget.period for budget in given}) < len(given):
            raise InvalidRequestError("There can be one budget a day, one a month and one in total.", param="budgets")
        return tuple(given)

    def names(self, field: str) -> bool:
        """Whether the body has this field."""
        return field in self.model_fields_set


class NewKey(AccountBody):
    """JSON body of a new key."""

    name: str = Field(min_length=1, max_length=200, description="For people; need not be unique.")
    tenant: TenantName = "default"
    scopes: list[Scope] = Field([Scope.INFERENCE], min_length=1)
    adapters: list[_Pattern] = Field(["*"], max_length=1000, description="Patterns of model names it may use.")
    expires_at: _Moment | None = None

    def draft(self) -> KeyRecord:
        """The key as it will be, but for what only the office knows."""
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


class KeyChanges(AccountBody):
    """JSON body of a change: what it does not name stays as it is; a null takes a limit, budget or expiry away."""

    name: str = Field("", min_length=1, max_length=200)
    scopes: list[Scope] = Field([], min_length=1)
    adapters: list[_Pattern] = Field([], max_length=1000)
    expires_at: _Moment | None = None

    def values(self, key: KeyRecord) -> dict[str, Any]:
        """The fields of the record that change."""
        changes: dict[str, Any] = {"limits": self.limits(key.limits), "budgets": self.chosen_budgets(key.budgets)}
        named = {
            "name": self.name,
            "scopes": frozenset(self.scopes),
            "adapters": tuple(self.adapters),
        }
        changes |= {field: value for field, value in named.items() if self.names(field)}
        return changes | ({"expires_us": _us(self.expires_at)} if self.names("expires_at") else {})


class Rotation(Schema):
    """JSON body of a rotation; may be empty: then every earlier secret ends at once."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: int = Field(
        0, ge=0, le=366 * 86_400, description="How long the old secret stays good; 0 ends every earlier one at once."
    )


class TenantBody(AccountBody):
    """JSON body of a tenant."""

    def draft(self, name: str) -> Tenant:
        """The tenant as it will be, but for its time of birth."""
        return Tenant(name, self.limits(Limits()), self.chosen_budgets(()), created_us=0)

    def values(self, tenant: Tenant) -> dict[str, Any]:
        """The fields of the record that change."""
        return {"limits": self.limits(tenant.limits), "budgets": self.chosen_budgets(tenant.budgets)}


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


_Name = Annotated[str, Path(pattern=TENANT)]


def key_routes(
    office: ApiKeyService, standings: BudgetStatuses, admin: Any, forget: Callable[..., object]
) -> APIRouter:
    """Routes below /admin/v1/keys and /admin/v1/tenants; `admin` is the dependency that demands an admin key, `forget`
    deletes what a tenant's keys said of answers.
    """
    routes = APIRouter(prefix="/admin/v1")
    _add_keys(routes, office, standings, admin)
    _add_key_endings(routes, office, admin)
    _add_tenants(routes, office, standings, admin, forget)
    return routes


def _add_keys(routes: APIRouter, office: ApiKeyService, standings: BudgetStatuses, admin: Any) -> None:
    @routes.post("/keys", status_code=201, tags=["keys"], openapi_extra=body_of(NewKey))
    async def create(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Give out a key: `key` in the answer is shown this once and kept nowhere."""
        draft = read_body(NewKey, await request.body()).draft()
        made, secret = await CRITICAL.run(office.create, draft, actor=caller.key_id)
        return {"key": secret, **key_document(made, now_us())}

    @routes.get("/keys", tags=["keys"], dependencies=[Depends(admin)])
    def list_keys(tenant: str | None = None) -> dict[str, Any]:
        """Every key that ever was, or a tenant's, the oldest first."""
        now = now_us()
        return {"object": "list", "data": [key_document(key, now) for key in office.keys(tenant)]}

    @routes.get("/keys/{key_id}", tags=["keys"], dependencies=[Depends(admin)])
    def get_key(key_id: str) -> dict[str, Any]:
        """One key by its public id, with what it has spent of its budgets and what is left."""
        key = office.key(key_id)
        return key_document(key, now_us()) | {"spending": standings.documents(key.account)}

    @routes.patch("/keys/{key_id}", tags=["keys"], openapi_extra=body_of(KeyChanges))
    async def change(key_id: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Change name, scopes, adapters, limits, budgets or expiry; requests that run go on as they began."""
        body = read_body(KeyChanges, await request.body())
        changed = await CRITICAL.run(office.change, key_id, body.values, actor=caller.key_id)
        return key_document(changed, now_us())


def _add_key_endings(routes: APIRouter, office: ApiKeyService, admin: Any) -> None:
    @routes.post("/keys/{key_id}/rotate", tags=["keys"], openapi_extra=body_of(Rotation, required=False))
    async def rotate(key_id: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Give a key a new secret, shown this once; the old one stays good for `overlap_s`."""
        overlap_us = read_body(Rotation, await request.body()).overlap_s * 10**6
        rotated, secret = await CRITICAL.run(office.rotate, key_id, overlap_us=overlap_us, actor=caller.key_id)
        return {"key": secret, **key_document(rotated, now_us())}

    @routes.delete("/keys/{key_id}", tags=["keys"])
    async def revoke(key_id: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """End a key for good: at once here, within a second on other gateways."""
        return key_document(await CRITICAL.run(office.revoke, key_id, actor=caller.key_id), now_us())


def _add_tenants(
    routes: APIRouter, office: ApiKeyService, standings: BudgetStatuses, admin: Any, forget: Callable[..., object]
) -> None:
    @routes.put("/tenants/{name}", tags=["tenants"], openapi_extra=body_of(TenantBody))
    async def put(name: _Name, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make a tenant, or replace its limits and budgets: they hold for all its keys together."""
        draft = read_body(TenantBody, await request.body()).draft(name)
        return tenant_document(await CRITICAL.run(office.put_tenant, draft, actor=caller.key_id))

    @routes.get("/tenants", tags=["tenants"], dependencies=[Depends(admin)])
    def list_tenants() -> dict[str, Any]:
        """Every tenant with limits or budgets of its own."""
        return {"object": "list", "data": [tenant_document(tenant) for tenant in office.tenants()]}

    @routes.get("/tenants/{name}", tags=["tenants"], dependencies=[Depends(admin)])
    def get_tenant(name: str) -> dict[str, Any]:
        """One tenant, with what its keys together have spent of its budgets and what is left."""
        tenant = office.tenant(name)
        return tenant_document(tenant) | {"spending": standings.documents(tenant.account)}

    @routes.patch("/tenants/{name}", tags=["tenants"], openapi_extra=body_of(TenantBody))
    async def patch(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Change some limits or budgets of a tenant."""
        body = read_body(TenantBody, await request.body())
        return tenant_document(await CRITICAL.run(office.change_tenant, name, body.values, actor=caller.key_id))

    @routes.delete("/tenants/{name}", tags=["tenants"])
    async def delete(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Forget a tenant's limits, budgets and feedback; 409 while keys of it work."""
        deleted = await CRITICAL.run(office.delete_tenant, name, actor=caller.key_id)
        await REPORTS.run(forget, name, actor=caller.key_id)
        return tenant_document(deleted)
