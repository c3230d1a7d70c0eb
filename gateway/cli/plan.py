"""Planning the slots of an engine that is about to start, from what is registered and what memory there is."""

from pathlib import Path

from adapters import BaseModel, Registry, State
from gateway.database import open_database
from gateway.engine.slots import Given, SlotPlan, assumed_plan, device_bytes, free_host_bytes, plan_slots
from gateway.settings import Settings

_VLLM_SHARE = 0.9  # of a GPU's memory, vLLM's own default


def plan_for(settings: Settings, base_dir: Path | None, *, is_cpu: bool) -> SlotPlan:
    """The slot plan for a managed engine with the base in `base_dir`, or for attached ones without it."""
    given = Given(settings.max_loras, settings.max_cpu_loras, settings.max_lora_rank)
    if base_dir is None:
        return assumed_plan(given, "assumed: somebody else started the engine")
    weights = sum(file.stat().st_size for file in base_dir.glob("*.safetensors"))
    host = free_host_bytes()
    if is_cpu:
        host -= weights + (settings.kv_cache_gib << 30)
    total = host if is_cpu else device_bytes()
    if total is None:
        return assumed_plan(given, "assumed: nvidia-smi does not tell the GPU's memory")
    device = host if is_cpu else int(_VLLM_SHARE * total) - weights
    ranks, working_set = _registered(settings)
    return plan_slots(
        given,
        BaseModel.read(base_dir),
        ranks=ranks,
        working_set=working_set,
        device_bytes=max(device, 0),
        host_bytes=max(host, 0),
    )


def _registered(settings: Settings) -> tuple[list[int], int]:
    """Ranks of all versions that may be loaded, and how many versions get traffic."""
    database = open_database(settings.database)
    try:
        snapshot = Registry(database).snapshot
    finally:
        database.dispose()
    usable = (State.READY, State.REGISTERED)
    versions = [version for of_name in snapshot.versions.values() for version in of_name if version.state in usable]
    return [version.manifest.r for version in versions], len(snapshot.routed_versions())
