"""/health (the process is alive), /ready (requests can be served) and /metrics (Prometheus)."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from gateway.background import Background
from gateway.database import DatabaseFile
from gateway.engines.pool import EnginePool
from gateway.metrics import Metrics


def health_routes(
    pool: EnginePool, metrics: Metrics, background: Background, database: DatabaseFile, scraper: Any | None
) -> APIRouter:
    """Build the routes for load balancers and Prometheus; without `scraper`, a dependency, the metrics are public."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """200 while the process is alive."""
        return {"status": "ok"}

    @routes.get("/ready")
    async def ready() -> dict[str, Any]:
        """200 while requests can be served, else 503 with the reason.

        `failing` names background tasks that fail repeatedly or hang without being essential to requests.
        """
        pool.require_ready()
        database.require()
        background.require_healthy()
        return {"status": "ready"} | ({"failing": background.failing} if background.failing else {})

    @routes.get("/metrics", dependencies=[] if scraper is None else [Depends(scraper)])
    def prometheus() -> Response:
        """Prometheus exposition; requires a key because it names every adapter in use."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
