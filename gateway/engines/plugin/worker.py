"""What the engine's workers tell about adapters: which lie in slots, which in the cache behind them, what loads cost.

vLLM calls `install` in every engine process through the entry point group `vllm.general_plugins`; the API server then
reaches the methods by `collective_rpc`.
"""

import functools
import time
from typing import Any

REPORT, UNPIN, ALIVE_HERE = "turntable_report", "turntable_unpin", "turntable_alive"


def install() -> None:
    """Give vLLM's workers our methods; does nothing when called again."""
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.worker.worker_base import WorkerBase

    if hasattr(WorkerBase, REPORT):
        return
    WorkerLoRAManager._load_adapter = _timed(WorkerLoRAManager._load_adapter)
    setattr(WorkerBase, REPORT, report)
    setattr(WorkerBase, UNPIN, unpin)
    setattr(WorkerBase, ALIVE_HERE, alive)


def report(worker: Any) -> dict[str, Any]:
    """The adapters of one worker by vLLM's integer ids, coldest first, and how long reading each took."""
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
    """Answer, between two steps of the engine."""
    return True


def unpin(worker: Any, adapter_id: int) -> None:
    """Let an adapter be evicted again; vLLM itself can only pin."""
    adapters = worker.model_runner.lora_manager._adapter_manager
    for cache in (adapters._registered_adapters, adapters._active_adapters):
        cache.pinned_items.discard(adapter_id)


def _timed(load: Any) -> Any:
    # Also counts loads that vLLM does by itself within a step, when a request asks for what the cache has dropped.
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
