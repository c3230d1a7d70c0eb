"""/health (alive), /ready (an engine serves), /metrics (Prometheus), /admin/v1/engines."""

from typing import Any

from fastapi import APIRouter, Depends, Response

from gateway.engine.loader import AdapterLoader
from gateway.engine.supervisor import Supervisor
from gateway.metrics import Metrics


def health_routes(
    supervisor: Supervisor, loader: AdapterLoader, metrics: Metrics, *, engine_url: str, admin: Any
) -> APIRouter:
    """Routes for load balancers, Prometheus and operators."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    def health() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "ok"}

    @routes.get("/ready")
    def ready() -> dict[str, str]:
        """200 while requests can be served; 503 with the reason otherwise."""
        supervisor.require_ready()
        return {"status": "ready"}

    @routes.get("/metrics")
    def prometheus() -> Response:
        """Prometheus exposition."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/admin/v1/engines", dependencies=[Depends(admin)])
    def engines() -> dict[str, Any]:
        """The engine: state, version, resident adapters, shields."""
        status = supervisor.status
        engine = {
            "url": engine_url,
            "managed": supervisor.is_managed,
            "state": status.state,
            "reason": status.reason,
            "version": status.version,
            "restarts": status.restarts,
            "resident": sorted(loader.resident),
            "shields": ["cpu-mixed-batch"] if supervisor.is_managed else [],
        }
        return {"object": "list", "data": [engine]}

    return routes
