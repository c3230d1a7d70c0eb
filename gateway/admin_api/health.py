"""/health (alive), /ready (an engine serves), /metrics (Prometheus)."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from gateway.background import Background
from gateway.database import DatabaseFile
from gateway.engines.pool import EnginePool
from gateway.metrics import Metrics


def health_routes(
    pool: EnginePool, metrics: Metrics, background: Background, database: DatabaseFile, scraper: Any | None
) -> APIRouter:
    """Routes for load balancers and Prometheus; `scraper` is the dependency that demands a key for the metrics, None
    where they are public.
    """
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok"}

    @routes.get("/ready")
    async def ready() -> dict[str, Any]:
        """200 while requests can be served; 503 with the reason otherwise. `failing` names background tasks that fail
        again and again and that requests do not need.
        """
        pool.require_ready()
        database.require()
        background.require_sound()
        return {"status": "ready"} | ({"failing": background.failing} if background.failing else {})

    @routes.get("/metrics", dependencies=[] if scraper is None else [Depends(scraper)])
    def prometheus() -> Response:
        """Prometheus exposition; it names every adapter that is used, so it takes a key."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
