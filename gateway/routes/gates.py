"""The admin surface of gates: post a verdict, approve a version, ask what a promotion needs."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel as Schema
from pydantic import ConfigDict

from adapters.ref import check_name
from gateway.adapter_errors import parse_version, translated_errors
from gateway.gates.gate import Gate
from gateway.gates.record import Evidences
from gateway.gates.verdict import Verdict
from gateway.keys import Caller
from gateway.routes.adapter_documents import AdapterDocuments, Said, body_of, read_body


class Approval(Schema):
    """JSON body of an approval."""

    model_config = ConfigDict(extra="forbid")

    reason: Said


def gate_routes(evidences: Evidences, gate: Gate, documents: AdapterDocuments, admin: Any) -> APIRouter:
    """Routes below /admin/v1; `admin` is the dependency that demands an admin key."""
    routes = APIRouter(prefix="/admin/v1", tags=["gates"])

    @routes.get("/gate", dependencies=[Depends(admin)])
    def get_gate() -> dict[str, Any]:
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
            found = await asyncio.to_thread(record, check_name(name), parse_version(version))
            return await asyncio.to_thread(lambda: documents.versions([found])[0])

    return routes
