"""/health (alive), /ready (an engine serves), /metrics (Prometheus)."""

from fastapi import APIRouter, Response

from gateway.engine.pool import EnginePool
from gateway.metrics import Metrics


def health_routes(pool: EnginePool, metrics: Metrics) -> APIRouter:
    """Routes for load balancers and Prometheus."""
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

    return routes
