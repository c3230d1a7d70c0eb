"""The admin surface of gates: post a verdict, approve a version, ask what a promotion needs.

The admin surface for traffic: promote, roll back, canary, shadow, pin, withdraw.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field

from adapters.ref import check_name
from gateway.admin_api.adapter_documents import AdapterDocuments, Said, body_of, read_body
from gateway.auth import Caller
from gateway.releases.canary import CanaryLimits
from gateway.releases.errors import parse_version, translated_errors
from gateway.releases.gate import EvidenceRecorder, Override, PromotionGate
from gateway.releases.rollout import Rollout
from gateway.releases.verdict import Verdict
from gateway.threads import CRITICAL


class Approval(Schema):
    """JSON body of an approval."""

    model_config = ConfigDict(extra="forbid")

    reason: Said


def gate_routes(evidences: EvidenceRecorder, gate: PromotionGate, documents: AdapterDocuments, admin: Any) -> APIRouter:
    """Routes below /admin/v1; `admin` is the dependency that demands an admin key."""
    routes = APIRouter(prefix="/admin/v1", tags=["gates"])

    @routes.get("/gate", dependencies=[Depends(admin)])
    async def get_gate() -> dict[str, Any]:
        """What a promotion needs here: a verdict, an approval."""
        return {"require_verdict": gate.require_verdict, "require_approval": gate.require_approval}

    @routes.get("/base", dependencies=[Depends(admin)])
    def get_base() -> dict[str, Any]:
        """The base model and chat template that are served now, by their hashes; null where they are not at hand."""
        return gate.served.document()

    @routes.post("/adapters/{name}/versions/{version}/verdict", status_code=201, openapi_extra=body_of(Verdict))
    async def record_verdict(
        name: str, version: str, request: Request, caller: Annotated[Caller, Depends(admin)]
    ) -> dict[str, Any]:
        """Keep the outcome of a comparison with the version it is about; the newest one counts."""
        verdict = read_body(Verdict, await request.body())
        record = partial(evidences.record_verdict, verdict=verdict, actor=caller.key_id)
        return await _recorded(record, name, version)

    @routes.post("/adapters/{name}/versions/{version}/approve", status_code=201, openapi_extra=body_of(Approval))
    async def approve(
        name: str, version: str, request: Request, caller: Annotated[Caller, Depends(admin)]
    ) -> dict[str, Any]:
        """Agree to a version going live; not with the key that published it."""
        reason = read_body(Approval, await request.body()).reason
        return await _recorded(partial(evidences.approve, reason=reason, actor=caller.key_id), name, version)

    async def _recorded(record: Any, name: str, version: str) -> dict[str, Any]:
        with translated_errors():
            found = await CRITICAL.run(record, check_name(name), parse_version(version))
            return await CRITICAL.run(lambda: documents.versions([found])[0])

    return routes


_Number = int | str
_Percent = Annotated[float, Field(gt=0, le=100, description="Share of the name's requests.")]
_DEFAULT = CanaryLimits()


class _Body(Schema):
    model_config = ConfigDict(extra="forbid")


class CanaryBounds(_Body):
    """How much worse than the live version a canary may be before it is taken back."""

    max_extra_error_rate: float = Field(_DEFAULT.max_extra_error_rate, ge=0, le=1)
    max_latency_ratio: float = Field(_DEFAULT.max_latency_ratio, ge=1, le=1_000)
    min_requests: int = Field(_DEFAULT.min_requests, ge=1, le=1_000)
    window_s: float = Field(_DEFAULT.window_s, gt=0, le=86_400)


class Overriding(_Body):
    """Why a version goes live without a verdict that counts, and who answers for that; both are on the audit log."""

    reason: Said
    by: Said


class Promotion(_Body):
    """JSON body of a promotion; `canary_percent` begins a canary instead, `expect_live` makes it a compare-and-swap."""

    version: _Number
    canary_percent: _Percent | None = None
    expect_live: _Number | None = None
    override: Overriding | None = None


class Back(_Body):
    """JSON body of a rollback; may be empty."""

    expect_live: _Number | None = None


class Canary(_Body):
    """JSON body of a canary."""

    version: _Number
    percent: _Percent
    bounds: CanaryBounds = CanaryBounds()


class Shadow(_Body):
    """JSON body of a shadow."""

    version: _Number
    percent: _Percent


class Pin(_Body):
    """JSON body of a pin; may be empty."""

    pinned: bool = True


def rollout_routes(rollout: Rollout, documents: AdapterDocuments, admin: Any) -> APIRouter:
    """Routes below /admin/v1/adapters/{name}; `admin` is the dependency that demands an admin key."""
    routes = APIRouter(prefix="/admin/v1/adapters/{name}", tags=["traffic"])
    _add_pointers(routes, rollout, documents, admin)
    _add_splits(routes, rollout, documents, admin)
    return routes


def _add_pointers(routes: APIRouter, rollout: Rollout, documents: AdapterDocuments, admin: Any) -> None:
    @routes.post("/promote", openapi_extra=body_of(Promotion))
    async def promote(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make a version live, or with `canary_percent` the canary; 409 when `expect_live` is not live any more, or
        nothing (a verdict that counts, an override, where asked an approval) allows it.
        """
        body = read_body(Promotion, await request.body())
        number, actor = parse_version(body.version), _actor(name, caller)
        expected = None if body.expect_live is None else parse_version(body.expect_live)
        if body.canary_percent is None:
            override = Override(body.override.reason, body.override.by) if body.override else None
            version = await rollout.promote(name, number, expect_live=expected, actor=actor, override=override)
        else:
            version = await rollout.set_canary(
                name, number, body.canary_percent, CanaryLimits(), expect_live=expected, actor=actor
            )
        return documents.version(version)

    @routes.post("/rollback", openapi_extra=body_of(Back, required=False))
    async def rollback(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make the version live again that was live before."""
        body = read_body(Back, await request.body())
        expected = None if body.expect_live is None else parse_version(body.expect_live)
        return documents.version(await rollout.rollback(name, expect_live=expected, actor=_actor(name, caller)))

    @routes.delete("/live")
    async def withdraw(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Take a name out of traffic: its live version answers only by its full ref; a rollback brings it back."""
        return documents.version(await rollout.withdraw(name, actor=_actor(name, caller)))

    @routes.post("/pin", openapi_extra=body_of(Pin, required=False))
    async def pin(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Keep the live version of a name resident in every engine, or with `pinned` false no longer."""
        body = read_body(Pin, await request.body())
        await rollout.set_pinned(name, body.pinned, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)


def _add_splits(routes: APIRouter, rollout: Rollout, documents: AdapterDocuments, admin: Any) -> None:
    @routes.post("/canary", openapi_extra=body_of(Canary))
    async def canary(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Have a version answer a share of the requests; the gateway takes it back when it breaks its bounds."""
        body = read_body(Canary, await request.body())
        bounds = CanaryLimits(**body.bounds.model_dump())
        await rollout.set_canary(name, parse_version(body.version), body.percent, bounds, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.delete("/canary")
    async def clear_canary(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """All requests go to the live version again."""
        await rollout.clear_canary(name, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.post("/shadow", openapi_extra=body_of(Shadow))
    async def shadow(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Ask a share of the answered requests again of a version, and compare; nobody is answered from it."""
        body = read_body(Shadow, await request.body())
        await rollout.set_shadow(name, parse_version(body.version), body.percent, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.delete("/shadow")
    async def clear_shadow(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Mirror nothing any more."""
        await rollout.clear_shadow(name, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)


def _actor(name: str, caller: Caller) -> str:
    """Who is doing this; raises `InvalidRequestError` when what they do it to is no adapter name."""
    with translated_errors():
        check_name(name)
    return caller.key_id
