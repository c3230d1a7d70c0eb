"""GET /admin/v1/engines: state, resident adapters, patches and slot plan of each engine."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends

from gateway.engines.engine import Engine
from gateway.engines.plugin.patches import PATCHES, EnginePatch, PatchPlace
from gateway.engines.pool import EnginePool
from gateway.engines.slot_plan import SlotPlan
from gateway.inference.request_guards import guard_defects

_DEGRADED = (
    "This engine runs without Turntable's vLLM plugin: an unload frees no memory, residency is an estimate, and vLLM "
    "runs without the patches. Install turntable-gateway in the engine's environment and set "
    "VLLM_PLUGINS=turntable_patches,turntable_residency."
)


def engine_routes(pool: EnginePool, plan: SlotPlan, *, admin: Any) -> APIRouter:
    """Build the route; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(tags=["engines"])

    @routes.get("/admin/v1/engines", dependencies=[Depends(admin)])
    async def engines() -> dict[str, Any]:
        """List the engines: state, circuit breaker, version, adapters per tier, patches, slot plan with its reason."""
        return {"object": "list", "data": [_describe(engine, plan) for engine in pool.engines]}

    return routes


def _describe(engine: Engine, plan: SlotPlan) -> dict[str, Any]:
    status, loader, residents = engine.supervisor.status, engine.loader, engine.reconciler.residents
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
        "plugin": loader.has_plugin,
        "degraded": "" if loader.has_plugin else _DEGRADED,
        "max_lora_rank": residents.max_lora_rank if residents else plan.max_lora_rank,
        "slots": loader.slots,
        "capacity": loader.capacity,
        "resident": list(loader.resident),
        "warm": list(loader.warm),
        "pins": dict(loader.pins),
        "tiers": residents.by_tier() if residents else None,
        "pinned": [adapter.name for adapter in residents.adapters if adapter.pinned] if residents else None,
        "load_ms": {adapter.name: adapter.load_ms for adapter in residents.adapters} if residents else None,
        "working_set": loader.used.names(),
        "warning": engine.thrash.warning,
        "waiting_for_slot": engine.scheduler.waiting,
        "plan": asdict(plan),
        "patches": _patches(engine),
    }


def _patches(engine: Engine) -> list[dict[str, Any]]:
    told = [_tell(patch, engine) for patch in PATCHES]
    for name, defect in guard_defects().items():
        told.append(
            {
                "name": name,
                "place": PatchPlace.GATEWAY,
                "defect": defect,
                "measure": "Refused or cut back.",
                "applied": True,
            }
        )
    return told


def _tell(patch: EnginePatch, engine: Engine) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": patch.name,
        "place": patch.place,
        "defect": patch.defect,
        "measure": patch.measure,
    }
    applied, why = _applied(patch, engine)
    return document | {"applied": applied, "why": why}


def _applied(patch: EnginePatch, engine: Engine) -> tuple[bool, str]:
    """Whether an engine has this patch, and why."""
    version, residents = engine.supervisor.status.version, engine.reconciler.residents
    if patch.place is PatchPlace.GATEWAY:
        return True, "The gateway does this for every engine."
    if patch.place is PatchPlace.START:
        managed = engine.supervisor.is_managed
        return managed, "The gateway started it so." if managed else "Depends on how the engine was started."
    if residents is None:
        return False, "The engine runs without our plugin."
    if patch.replacement is None:
        return True, f"The plugin is in vLLM {version}."
    if patch.name in residents.patches:
        return True, f"As far as is known, vLLM {version} has this defect on this platform."
    return False, f"vLLM {version} on this platform does not need it."
