"""Methods added to vLLM's workers: report adapters in slots and cache with their load times, unpin, liveness.

vLLM calls `install` in every engine process through the entry point group `vllm.general_plugins`; the API server then
reaches the methods by `collective_rpc`.
"""

import functools
import time
from typing import Any

REPORT, UNPIN, ALIVE_HERE = "turntable_report", "turntable_unpin", "turntable_alive"


def install() -> None:
    """Add the methods to vLLM's worker class; calling it again does nothing."""
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.worker.worker_base import WorkerBase

    if hasattr(WorkerBase, REPORT):
        return
    WorkerLoRAManager._load_adapter = _timed(WorkerLoRAManager._load_adapter)
    setattr(WorkerBase, REPORT, report)
    setattr(WorkerBase, UNPIN, unpin)
    setattr(WorkerBase, ALIVE_HERE, alive)


def report(worker: Any) -> dict[str, Any]:
    """Report the adapters of one worker by vLLM's integer ids, least recently used first, with their load times."""
    manager = worker.model_runner.lora_manager
    adapters = manager._adapter_manager
    cached = list(adapters.list_adapters())
    load_ms = getattr(manager, "turntable_load_ms", {})
    stacks = [
        stack
        for module in adapters.modules.values()
        for stack in (*getattr(module, "lora_a_stacked", ()), *getattr(module, "lora_b_stacked", ()))
    ]
    return {
        "cached": cached,
        "slots": list(adapters.lora_index_to_id),
        "pinned": sorted(adapters._active_adapters.pinned_items),
        "load_ms": {str(adapter): load_ms[adapter] for adapter in cached if adapter in load_ms},
        "loads": getattr(manager, "turntable_loads", 0),
        "slot_bytes": sum(stack.nbytes for stack in stacks) // adapters.lora_slots,
    }


def alive(_worker: Any) -> bool:
    """Answer a liveness probe; vLLM runs this between two steps."""
    return True


def unpin(worker: Any, adapter_id: int) -> None:
    """Unpin an adapter, so that it may be evicted; vLLM itself can only pin."""
    adapters = worker.model_runner.lora_manager._adapter_manager
    for cache in (adapters._registered_adapters, adapters._active_adapters):
        cache.pinned_items.discard(adapter_id)


def _timed(load: Any) -> Any:
    # Also counts loads that vLLM does within a step, when a request needs an adapter that the cache has evicted.
    @functools.wraps(load)
    def timed(manager: Any, request: Any) -> Any:
        started = time.perf_counter()
        adapter = load(manager, request)
        known = manager.__dict__.setdefault("turntable_load_ms", {})
        known[request.lora_int_id] = round(1000 * (time.perf_counter() - started), 3)
        manager.turntable_loads = getattr(manager, "turntable_loads", 0) + 1
        for gone in known.keys() - manager.list_adapters() - {request.lora_int_id}:
            del known[gone]
        return adapter

    return timed
