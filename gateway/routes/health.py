"""/health (alive), /ready (an engine serves), /metrics (Prometheus), /admin/v1/engines."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from gateway.apis.request_shields import REQUEST_SHIELDS
from gateway.engine.engine import Engine
from gateway.engine.pool import EnginePool
from gateway.metrics import Metrics


def health_routes(pool: EnginePool, metrics: Metrics, *, admin: Any) -> APIRouter:
    """Routes for load balancers, Prometheus and operators."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    def health() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok"}

    @routes.get("/ready")
    def ready() -> dict[str, str]:
        """200 while requests can be served; 503 with the reason otherwise."""
        pool.require_ready()
        return {"status": "ready"}

    @routes.get("/metrics")
    def prometheus() -> Response:
        """Prometheus exposition."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/admin/v1/engines", dependencies=[Depends(admin)])
    def engines() -> dict[str, Any]:
        """Every engine: state, circuit, version, adapters, shields."""
        return {"object": "list", "data": [_describe(engine) for engine in pool.engines]}

    return routes


def _describe(engine: Engine) -> dict[str, Any]:
    status = engine.supervisor.status
    return {
        "name": engine.name,
        "url": engine.client.url,
        "managed": engine.supervisor.is_managed,
        "state": status.state,
        "reason": status.reason,
        "circuit": engine.breaker.state,
        "version": status.version,
        "restarts": status.restarts,
        "running": engine.running,
        "resident": sorted(engine.loader.resident),
        "warm": list(engine.loader.warm),
        "shields": [*engine.supervisor.shields, *REQUEST_SHIELDS],
    }
