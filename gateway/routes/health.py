"""/health (alive), /ready (an engine serves), /metrics (Prometheus)."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from gateway.engine.pool import EnginePool
from gateway.metrics import Metrics


def health_routes(pool: EnginePool, metrics: Metrics, scraper: Any, *, is_public: bool) -> APIRouter:
    """Routes for load balancers and Prometheus; `scraper` is the dependency that demands a key for the metrics, unless
    they are public.
    """
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

    @routes.get("/metrics", dependencies=[] if is_public else [Depends(scraper)])
    def prometheus() -> Response:
        """Prometheus exposition; it names every adapter that is used, so it takes a key."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
