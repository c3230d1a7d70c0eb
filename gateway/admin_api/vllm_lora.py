"""vLLM's own API for loading and unloading LoRA adapters, mapped onto the registry, for tools that use only that.

A load publishes and promotes, an unload withdraws the name and retires its version. The call has no field for a
verdict, so a load without one is recorded as an override by its key; a required approval is still required. Responses
are those of vLLM 0.32: a line of text, or its error object, whose `code` repeats the status.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel as Schema

from adapters import Registry
from gateway.admin_api.adapter_documents import body_of, read_body
from gateway.auth import Caller
from gateway.errors import GatewayError, InvalidRequestError
from gateway.releases.promotion_gate import Override
from gateway.releases.publish import Publisher
from gateway.releases.rollout import Rollout


class LoadLoRAAdapterRequest(Schema):
    """vLLM's request body of a load; `lora_path` is a source that `adapter_sources` allows."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class UnloadLoRAAdapterRequest(Schema):
    """vLLM's request body of an unload; like vLLM, it ignores `lora_int_id`."""

    lora_name: str
    lora_int_id: int | None = None


def vllm_lora_routes(publisher: Publisher, rollout: Rollout, registry: Registry, base: str, admin: Any) -> APIRouter:
    """Build the two routes; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(prefix="/v1", tags=["vLLM's adapter calls"])

    @routes.post("/load_lora_adapter", openapi_extra=body_of(LoadLoRAAdapterRequest))
    async def load(request: Request, caller: Annotated[Caller, Depends(admin)]) -> Response:
        """Publish the adapter at `lora_path` as the next version of `lora_name` and promote it."""
        body = read_body(LoadLoRAAdapterRequest, await request.body())
        name = body.lora_name
        if refusal := _refusal_to_load(body, registry, base):
            return refusal
        try:
            version = await publisher.publish_source(name, body.lora_path, actor=caller.key_id)
            override = Override("loaded with vLLM's own call, which has no place for a verdict", f"key {caller.key_id}")
            await rollout.promote(name, version.version, expect_live=None, actor=caller.key_id, override=override)
        except GatewayError as error:
            if error.status >= 500:
                raise
            return _error(error.status, _TYPES.get(error.status, "InvalidUserInput"), str(error))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @routes.post("/unload_lora_adapter", openapi_extra=body_of(UnloadLoRAAdapterRequest))
    async def unload(request: Request, caller: Annotated[Caller, Depends(admin)]) -> Response:
        """Withdraw `lora_name` from traffic, then drain, unload and retire its live version."""
        name = read_body(UnloadLoRAAdapterRequest, await request.body()).lora_name
        if not name:
            return _error(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in registry.snapshot.live:
            return _error(404, "NotFoundError", f"The lora adapter '{name[:100]}' cannot be found.")
        version = await rollout.withdraw(name, actor=caller.key_id)
        await rollout.retire(name, version.version, actor=caller.key_id)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    return routes


_TYPES = {404: "NotFoundError"}


def _refusal_to_load(body: LoadLoRAAdapterRequest, registry: Registry, base: str) -> Response | None:
    """Return the refusal of a load in vLLM's words; raises `InvalidRequestError` for `load_inplace`."""
    name = body.lora_name
    if body.load_inplace:
        raise InvalidRequestError(
            "'load_inplace' would replace the weights under running requests and leave a stale prefix cache; publish a "
            "new version with POST /admin/v1/adapters and promote it.",
            param="load_inplace",
        )
    if not name or not body.lora_path:
        return _error(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
    if name == base:
        message = f"The lora adapter '{name}' conflicts with a served base model."
        return _error(400, "InvalidUserInput", message)
    if name in registry.snapshot.live:
        message = (
            f"The lora adapter '{name}' has already been loaded. Publish its next version with POST "
            "/admin/v1/adapters, or unload it first."
        )
        return _error(400, "InvalidUserInput", message)
    return None


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)
