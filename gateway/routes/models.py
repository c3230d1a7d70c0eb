"""GET /v1/models and /v1/models/{id}: the base and the live adapters, in OpenAI's shape."""

from typing import Any

from fastapi import APIRouter, Depends

from adapters import Registry, Version
from gateway.resolve import Resolver


def model_routes(registry: Registry, resolver: Resolver, base: str, authenticated: Any) -> APIRouter:
    """Routes that list what a caller may name as the model."""
    routes = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(authenticated)])

    def describe(name: str, version: Version | None) -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "turntable"}
        if version is not None:
            created = int(version.manifest.created_at.timestamp())
            model |= {"created": created, "parent": base, "root": version.engine_name}
        return model

    @routes.get("")
    def list_models() -> dict[str, Any]:
        """The base model and every live adapter."""
        live = registry.snapshot.live_versions()
        return {"object": "list", "data": [describe(base, None), *(describe(v.name, v) for v in live)]}

    @routes.get("/{name:path}")
    def get_model(name: str) -> dict[str, Any]:
        """One model by name or ref."""
        return describe(name, resolver.resolve(name).version)

    return routes
