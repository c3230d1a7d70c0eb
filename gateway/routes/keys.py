"""The admin surface for keys and tenants: create (shown once), list, show, change, rotate, revoke."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request

from gateway.budgets import Standings
from gateway.keys import Caller, KeyOffice
from gateway.keys.documents import key_document, tenant_document
from gateway.ledger import now_us
from gateway.routes.adapter_documents import body_of, read_body
from gateway.routes.key_bodies import TENANT, KeyChanges, NewKey, Rotation, TenantBody

_Name = Annotated[str, Path(pattern=TENANT)]


def key_routes(office: KeyOffice, standings: Standings, admin: Any, forget: Callable[..., object]) -> APIRouter:
    """Routes below /admin/v1/keys and /admin/v1/tenants; `admin` is the dependency that demands an admin key, `forget`
    deletes what a tenant's keys said of answers.
    """
    routes = APIRouter(prefix="/admin/v1")
    _add_keys(routes, office, standings, admin)
    _add_key_endings(routes, office, admin)
    _add_tenants(routes, office, standings, admin, forget)
    return routes


def _add_keys(routes: APIRouter, office: KeyOffice, standings: Standings, admin: Any) -> None:
    @routes.post("/keys", status_code=201, tags=["keys"], openapi_extra=body_of(NewKey))
    async def create(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Give out a key: `key` in the answer is shown this once and kept nowhere."""
        draft = read_body(NewKey, await request.body()).draft()
        made, secret = await asyncio.to_thread(office.create, draft, actor=caller.key_id)
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
        changed = await asyncio.to_thread(office.change, key_id, body.values, actor=caller.key_id)
        return key_document(changed, now_us())


def _add_key_endings(routes: APIRouter, office: KeyOffice, admin: Any) -> None:
    @routes.post("/keys/{key_id}/rotate", tags=["keys"], openapi_extra=body_of(Rotation, required=False))
    async def rotate(key_id: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Give a key a new secret, shown this once; the old one stays good for `overlap_s`."""
        overlap_us = read_body(Rotation, await request.body()).overlap_s * 10**6
        rotated, secret = await asyncio.to_thread(office.rotate, key_id, overlap_us=overlap_us, actor=caller.key_id)
        return {"key": secret, **key_document(rotated, now_us())}

    @routes.delete("/keys/{key_id}", tags=["keys"])
    async def revoke(key_id: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """End a key for good: at once here, within a second on other gateways."""
        return key_document(await asyncio.to_thread(office.revoke, key_id, actor=caller.key_id), now_us())


def _add_tenants(
    routes: APIRouter, office: KeyOffice, standings: Standings, admin: Any, forget: Callable[..., object]
) -> None:
    @routes.put("/tenants/{name}", tags=["tenants"], openapi_extra=body_of(TenantBody))
    async def put(name: _Name, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make a tenant, or replace its limits and budgets: they hold for all its keys together."""
        draft = read_body(TenantBody, await request.body()).draft(name)
        return tenant_document(await asyncio.to_thread(office.put_tenant, draft, actor=caller.key_id))

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
        return tenant_document(await asyncio.to_thread(office.change_tenant, name, body.values, actor=caller.key_id))

    @routes.delete("/tenants/{name}", tags=["tenants"])
    async def delete(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Forget a tenant's limits, budgets and feedback; 409 while keys of it work."""
        deleted = await asyncio.to_thread(office.delete_tenant, name, actor=caller.key_id)
        await asyncio.to_thread(forget, name, actor=caller.key_id)
        return tenant_document(deleted)
