"""GET /v1/models and /v1/models/{id}: the base and the live adapters, in OpenAI's shape."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from adapters import Registry, Version
from gateway.auth import Caller
from gateway.errors import UnknownUrlError
from gateway.inference.routing import Resolver


def model_routes(registry: Registry, resolver: Resolver, base: str, inference: Any) -> APIRouter:
    """Build the routes that list the models a caller may use; `inference` is the dependency that requires that scope.

    `created` is when a version was published, and when this gateway started for the base.
    """
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    since = int(time.time())

    def describe(name: str, version: Version | None) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": since, "owned_by": "turntable"}
        if version is not None:
            created = int(version.manifest.created_at.timestamp())
            model |= {"created": created, "parent": base, "root": version.engine_name}
        return model

    @routes.get("")
    async def list_models(caller: Annotated[Caller, Depends(inference)]) -> dict[str, Any]:
        """List the base model and the live adapters that this key may use."""
        live = registry.snapshot.live_versions()
        models = [describe(base, None), *(describe(v.name, v) for v in live)]
        return {"object": "list", "data": [model for model in models if caller.may_use(model["id"])]}

    @routes.get("/{name:path}")
    async def get_model(name: str, caller: Annotated[Caller, Depends(inference)]) -> dict[str, Any]:
        """Get a model by name or ref."""
        if not name:
            raise UnknownUrlError("GET", "/v1/models/", "/v1/models")
        return describe(name, resolver.route_for(caller, name).target.version)

    return routes
