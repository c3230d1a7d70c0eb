"""What `turntable serve` prepares before it listens: the base model's files, the slot plan, the limit of open files."""

import importlib
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adapters import BaseModel, Registry, State
from gateway.database import open_database
from gateway.engines.slot_plan import SlotPlan, SlotSettings, assumed_plan, device_bytes, free_host_bytes, plan_slots
from gateway.settings import EMBEDDED, Settings

_VLLM_SHARE = 0.9  # of a GPU's memory, vLLM's own default
_OTHER_FILES = 128
"""Databases, journals, logs, listeners, uploads and the files of Python itself."""
_FEWEST_CONNECTIONS = 8


class ServeError(Exception):
    """The gateway cannot start; the message names the fix."""


def find_base_model(model: str, data_dir: Path) -> Path:
    """The directory of the base model's files; raises `ServeError` when there is none."""
    if model == EMBEDDED:
        return _build_embedded(data_dir / "base-model")
    if Path(model).is_dir():
        return Path(model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ServeError(
            f"There is no model directory {model}; give a directory, a hub name (org/name), or 'embedded'."
        )
    return _fetch(model)


def _build_embedded(directory: Path) -> Path:
    # A program of its own: building needs torch, which the gateway must not load.
    built = subprocess.run([sys.executable, "-m", "trainer.base_model", "--out", str(directory)], check=False)  # noqa: S603
    if built.returncode:
        raise ServeError("The embedded base model could not be built (see above); or give another with --model.")
    return directory


def _fetch(name: str) -> Path:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ServeError(f"Fetching {name} needs huggingface_hub; install it or give a local directory.") from error
    try:
        return Path(
            hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ServeError(f"{name} could not be fetched from the hub ({reason}); give a local directory.") from error


def plan_for(settings: Settings, base_dir: Path | None, *, is_cpu: bool) -> SlotPlan:
    """The slot plan for a managed engine with the base in `base_dir`, or for attached ones without it."""
    given = SlotSettings(settings.max_loras, settings.max_cpu_loras, settings.max_lora_rank)
    if base_dir is None:
        return assumed_plan(given, "assumed: the engine was started elsewhere")
    weights = sum(file.stat().st_size for file in base_dir.glob("*.safetensors"))
    host = free_host_bytes()
    if is_cpu:
        host -= weights + (settings.kv_cache_gib << 30)
    total = host if is_cpu else device_bytes()
    if total is None:
        return assumed_plan(given, "assumed: nvidia-smi does not report the GPU's memory")
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
    """Ranks of all loadable versions, and the number of versions that get traffic."""
    database = open_database(settings.database)
    try:
        snapshot = Registry(database).snapshot
    finally:
        database.dispose()
    usable = (State.READY, State.REGISTERED)
    versions = [version for of_name in snapshot.versions.values() for version in of_name if version.state in usable]
    return [version.manifest.r for version in versions], len(snapshot.routed_versions())


def fit_open_files(settings: Settings, announce: Callable[[str], None]) -> Settings:
    """Raise the process's limit of open files (RLIMIT_NOFILE) to what the settings need, or lower `max_connections` to
    what fits and announce it. Raises `ServeError` when fewer than `_FEWEST_CONNECTIONS` fit.
    """
    needed = _needed(settings, settings.max_connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_enough(soft, needed):
        return settings
    if _is_enough(hard, needed):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return settings
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - _OTHER_FILES - settings.max_shadowed
    connections = max(room - settings.max_in_flight, room // 2)
    advice = f"raise it with `ulimit -n {needed}`, LimitNOFILE={needed} (systemd) or --ulimit nofile={needed} (Docker)"
    if connections < _FEWEST_CONNECTIONS:
        raise ServeError(f"{hard} open files are allowed (ulimit -n), too few to serve; {advice}.")
    announce(
        f"{hard} open files are allowed (ulimit -n) and max_connections={settings.max_connections} needs {needed}, so "
        f"{connections} connections are taken at a time; {advice}"
    )
    return settings.model_copy(update={"max_connections": connections})


def _needed(settings: Settings, connections: int) -> int:
    """Open files needed: a running request has a connection to an engine besides its client's."""
    return connections + min(connections, settings.max_in_flight) + settings.max_shadowed + _OTHER_FILES


def _is_enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
