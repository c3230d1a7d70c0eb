"""Endpoints that vLLM's API server lacks: list adapters by tier, remove one, pin one, token counts, liveness.

vLLM mounts them through the entry point group `vllm.endpoint_plugins`, and only when VLLM_PLUGINS names the plugin.
They are for the gateway only, like vLLM's endpoints for loading adapters. With VLLM_API_KEY set, as in every engine
that the gateway starts, the plugin requires that key on all of the engine's paths.
"""

from argparse import Namespace
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.engines.plugin.finished_requests import TOKENS, FinishedRequests
from gateway.engines.plugin.key_guard import KeyGuard
from gateway.engines.plugin.patches import applied_patches
from gateway.engines.plugin.worker import ALIVE_HERE, REPORT, UNPIN

PLUGIN = "turntable_residency"
ADAPTERS = "/v1/turntable/adapters"
ALIVE = "/v1/turntable/alive"
REMOVE, PIN = f"{ADAPTERS}/remove", f"{ADAPTERS}/pin"


class ResidencyPlugin:
    """Implements vLLM's interface of endpoint plugins."""

    name = PLUGIN
    required_tasks = None

    def __init__(self) -> None:
        self._engine: Any = None
        self._models: Any = None
        self._finished = FinishedRequests()

    def attach_router(self, app: Starlette) -> None:
        """Add the routes; vLLM calls it once while it builds its application."""
        from vllm import envs

        if envs.VLLM_API_KEY:
            app.add_middleware(KeyGuard, key=envs.VLLM_API_KEY)
        app.add_route(ALIVE, self.alive, methods=["GET"])
        app.add_route(ADAPTERS, self.show, methods=["GET"])
        app.add_route(REMOVE, self.remove, methods=["POST"])
        app.add_route(PIN, self.pin, methods=["POST"])
        app.add_route(TOKENS, self._finished.show, methods=["GET"])

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Keep the engine client; vLLM calls it once at start. A server that only renders prompts has no engine."""
        self._engine = engine_client
        self._models = getattr(state, "openai_serving_models", None)
        if (processor := getattr(engine_client, "output_processor", None)) is not None:
            self._finished.attach(processor)

    async def alive(self, _request: Request) -> Response:
        """Answer once every worker has: vLLM's own health check succeeds even while its core hangs."""
        await self._engine.collective_rpc(ALIVE_HERE)
        return JSONResponse({"alive": True})

    async def show(self, _request: Request) -> Response:
        """List the named adapters with their tier (slot, cpu or disk), least recently used first.

        `unnamed` counts cached weights whose name was removed.
        """
        report = await self._report()
        named = {request.lora_int_id: request for request in self._models.lora_requests.values()}
        order = [*(named.keys() - set(report["cached"])), *(found for found in report["cached"] if found in named)]
        config = self._engine.vllm_config.lora_config
        document = {
            "max_loras": config.max_loras,
            "max_cpu_loras": config.max_cpu_loras,
            "max_lora_rank": config.max_lora_rank,
            "slot_bytes": report["slot_bytes"],
            "loads": report["loads"],
            "patches": applied_patches(),
            "unnamed": sum(found not in named for found in report["cached"]),
            "adapters": [_describe(named[found], report) for found in order],
        }
        return JSONResponse(document)

    async def remove(self, request: Request) -> Response:
        """Remove `name` and its weights from slot and cache, and all weights without a name.

        A cancelled request that is still in the engine's queue may load the weights again; they are then unnamed, and
        the next call removes them. An unknown or empty name is no error.
        """
        name = (await request.json())["name"]
        known = self._models.lora_requests
        async with self._models.lora_resolver_lock[name]:
            removed = known.pop(name, None)
            if removed is not None:
                await self._engine.remove_lora(removed.lora_int_id)
        self._models.lora_resolver_lock.pop(name, None)
        for unnamed in await self._unnamed():
            await self._engine.remove_lora(unnamed)
        cached = set((await self._report())["cached"])
        is_gone = removed is None or removed.lora_int_id not in cached
        return JSONResponse({"removed": removed is not None, "gone": is_gone})

    async def pin(self, request: Request) -> Response:
        """Pin `name` to its slot, or unpin it (`pinned` false); 404 for an unknown name."""
        body = await request.json()
        found = self._models.lora_requests.get(body["name"])
        if found is None:
            return JSONResponse({"error": {"message": f"The engine has no adapter '{body['name']}'."}}, 404)
        if body["pinned"]:
            await self._engine.add_lora(found)  # loads it again when the cache has evicted it
            await self._engine.pin_lora(found.lora_int_id)
        else:
            await self._engine.collective_rpc(UNPIN, args=(found.lora_int_id,))
        return JSONResponse({"pinned": body["pinned"]})

    async def _report(self) -> dict[str, Any]:
        reports = await self._engine.collective_rpc(REPORT)
        return dict(reports[0])  # all workers of an engine hold the same adapters

    async def _unnamed(self) -> set[int]:
        cached = set((await self._report())["cached"])
        return cached - {request.lora_int_id for request in self._models.lora_requests.values()}


def _describe(request: Any, report: dict[str, Any]) -> dict[str, Any]:
    adapter = request.lora_int_id
    slots, is_cached = report["slots"], adapter in report["cached"]
    return {
        "name": request.lora_name,
        "path": request.lora_path,
        "tier": "slot" if adapter in slots else "cpu" if is_cached else "disk",
        "slot": slots.index(adapter) if adapter in slots else None,
        "pinned": adapter in report["pinned"],
        "load_ms": report["load_ms"].get(str(adapter)),
    }
