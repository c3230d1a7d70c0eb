"""Admin API for traffic: verdicts and approvals, then promote, roll back, canary, shadow, pin and withdraw."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field

from adapters.ref import check_name
from gateway.admin_api.adapter_documents import AdapterDocuments, FreeText, body_of, read_body
from gateway.auth import Caller
from gateway.releases.canary import CanaryLimits
from gateway.releases.errors import parse_version, translated_errors
from gateway.releases.promotion_gate import ComparisonVerdict, EvidenceRecorder, Override, PromotionGate
from gateway.releases.rollout import Rollout
from gateway.threads import CRITICAL


class ApprovalBody(Schema):
    """JSON body of an approval."""

    model_config = ConfigDict(extra="forbid")

    reason: FreeText


def gate_routes(recorder: EvidenceRecorder, gate: PromotionGate, documents: AdapterDocuments, admin: Any) -> APIRouter:
    """Build the routes of the promotion gate; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(prefix="/admin/v1", tags=["gates"])

    @routes.get("/gate", dependencies=[Depends(admin)])
    async def get_gate() -> dict[str, Any]:
        """Get what a promotion requires: a verdict, an approval."""
        return {"require_verdict": gate.require_verdict, "require_approval": gate.require_approval}

    @routes.get("/base", dependencies=[Depends(admin)])
    def get_base() -> dict[str, Any]:
        """Get the hashes of the served base model and chat template; null where its files are not available."""
        return gate.served.document()

    @routes.post(
        "/adapters/{name}/versions/{version}/verdict", status_code=201, openapi_extra=body_of(ComparisonVerdict)
    )
    async def record_verdict(
        name: str, version: str, request: Request, caller: Annotated[Caller, Depends(admin)]
    ) -> dict[str, Any]:
        """Record the verdict of a comparison for a version; the newest one counts."""
        verdict = read_body(ComparisonVerdict, await request.body())
        record = partial(recorder.record_verdict, verdict=verdict, actor=caller.key_id)
        return await _recorded(record, name, version)

    @routes.post("/adapters/{name}/versions/{version}/approve", status_code=201, openapi_extra=body_of(ApprovalBody))
    async def approve(
        name: str, version: str, request: Request, caller: Annotated[Caller, Depends(admin)]
    ) -> dict[str, Any]:
        """Approve a version for promotion; not with the key that published it."""
        reason = read_body(ApprovalBody, await request.body()).reason
        return await _recorded(partial(recorder.approve, reason=reason, actor=caller.key_id), name, version)

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


class CanaryLimitsBody(_Body):
    """JSON of canary limits: how much worse than the live version a canary may be before it is rolled back."""

    max_extra_error_rate: float = Field(_DEFAULT.max_extra_error_rate, ge=0, le=1)
    max_latency_ratio: float = Field(_DEFAULT.max_latency_ratio, ge=1, le=1_000)
    min_requests: int = Field(_DEFAULT.min_requests, ge=1, le=1_000)
    window_s: float = Field(_DEFAULT.window_s, gt=0, le=86_400)


class OverrideBody(_Body):
    """JSON of an override: why a version goes live without a valid verdict, and who is responsible. Audited."""

    reason: FreeText
    by: FreeText


class PromotionBody(_Body):
    """JSON body of a promotion; `canary_percent` starts a canary instead, `expect_live` makes it a compare-and-swap."""

    version: _Number
    canary_percent: _Percent | None = None
    expect_live: _Number | None = None
    override: OverrideBody | None = None


class RollbackBody(_Body):
    """JSON body of a rollback; may be empty."""

    expect_live: _Number | None = None


class CanaryBody(_Body):
    """JSON body of a canary."""

    version: _Number
    percent: _Percent
    bounds: CanaryLimitsBody = CanaryLimitsBody()


class ShadowBody(_Body):
    """JSON body of a shadow."""

    version: _Number
    percent: _Percent


class PinBody(_Body):
    """JSON body of a pin; may be empty."""

    pinned: bool = True


def rollout_routes(rollout: Rollout, documents: AdapterDocuments, admin: Any) -> APIRouter:
    """Build the routes below /admin/v1/adapters/{name}; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(prefix="/admin/v1/adapters/{name}", tags=["traffic"])
    _add_pointers(routes, rollout, documents, admin)
    _add_splits(routes, rollout, documents, admin)
    return routes


def _add_pointers(routes: APIRouter, rollout: Rollout, documents: AdapterDocuments, admin: Any) -> None:
    @routes.post("/promote", openapi_extra=body_of(PromotionBody))
    async def promote(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Promote a version to live, or with `canary_percent` to canary.

        409 when `expect_live` is no longer live, or without a passing verdict or override, or a required approval.
        """
        body = read_body(PromotionBody, await request.body())
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

    @routes.post("/rollback", openapi_extra=body_of(RollbackBody, required=False))
    async def rollback(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Roll back to the version that was live before."""
        body = read_body(RollbackBody, await request.body())
        expected = None if body.expect_live is None else parse_version(body.expect_live)
        return documents.version(await rollout.rollback(name, expect_live=expected, actor=_actor(name, caller)))

    @routes.delete("/live")
    async def withdraw(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Withdraw a name from traffic: its live version answers by its full ref only; a rollback reverts this."""
        return documents.version(await rollout.withdraw(name, actor=_actor(name, caller)))

    @routes.post("/pin", openapi_extra=body_of(PinBody, required=False))
    async def pin(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Pin the live version of a name in every engine, or with `pinned` false unpin it."""
        body = read_body(PinBody, await request.body())
        await rollout.set_pinned(name, body.pinned, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)


def _add_splits(routes: APIRouter, rollout: Rollout, documents: AdapterDocuments, admin: Any) -> None:
    @routes.post("/canary", openapi_extra=body_of(CanaryBody))
    async def canary(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Start a canary: a version answers a share of the requests, and is rolled back when it exceeds its limits."""
        body = read_body(CanaryBody, await request.body())
        bounds = CanaryLimits(**body.bounds.model_dump())
        await rollout.set_canary(name, parse_version(body.version), body.percent, bounds, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.delete("/canary")
    async def clear_canary(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """End the canary: all requests go to the live version again."""
        await rollout.clear_canary(name, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.post("/shadow", openapi_extra=body_of(ShadowBody))
    async def shadow(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Start a shadow: a version gets a copy of a share of the requests; clients never see its answers."""
        body = read_body(ShadowBody, await request.body())
        await rollout.set_shadow(name, parse_version(body.version), body.percent, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)

    @routes.delete("/shadow")
    async def clear_shadow(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """End the shadow."""
        await rollout.clear_shadow(name, actor=_actor(name, caller))
        return {"name": name} | documents.policy(name)


def _actor(name: str, caller: Caller) -> str:
    """Return the actor for the audit log; raises `InvalidRequestError` when `name` is not an adapter name."""
    with translated_errors():
        check_name(name)
    return caller.key_id
