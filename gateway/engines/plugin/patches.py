"""Known defects of vLLM and the workaround of each: the table behind `GET /admin/v1/engines`.

Some workarounds patch vLLM's own code: vLLM loads this module through the entry point group `vllm.general_plugins` in
every engine process and calls `register`. The others are start options or behavior of the gateway; they are in the same
table because an operator has one question: which defects of this engine version reach my users?
"""

import importlib
import logging
import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any

log = logging.getLogger("vllm.turntable")  # below vLLM's own logger, whose handler writes the engine's log

_PAUSE_S = 50e-6
_MARK = "turntable_patch"


class PatchPlace(StrEnum):
    """Where a patch works: in the ENGINE's processes, in how the gateway STARTs it, or in the GATEWAY itself."""

    ENGINE = "engine"
    START = "start"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class EnginePatch:
    """One defect and its workaround (`measure`).

    `replacement` returns a fixed version of vLLM's function `target` (module, name); `fixed_in` is the first vLLM
    version without the defect, None while none is known.
    """

    name: str
    place: PatchPlace
    defect: str
    measure: str
    cpu_only: bool = False
    target: tuple[str, str] | None = None
    replacement: Callable[[Any], Any] | None = None
    fixed_in: str | None = None

    def is_needed(self, version: str, *, is_cpu: bool) -> bool:
        """Whether this vLLM version is known to have the defect."""
        if self.cpu_only and not is_cpu:
            return False
        return self.fixed_in is None or _release(version) < _release(self.fixed_in)


def register() -> None:
    """Patch vLLM in this process where its version and platform need it; calling it again does nothing."""
    from vllm import __version__ as version
    from vllm.platforms import current_platform

    for patch in PATCHES:
        if patch.replacement is not None and patch.is_needed(version, is_cpu=current_platform.is_cpu()):
            try:
                _apply(patch)
            except Exception:
                log.exception("Patch %s does not fit vLLM %s: vLLM's own code runs instead.", patch.name, version)


def applied_patches() -> list[str]:
    """Return the names of the patches applied in this process; call it in an engine process."""
    return [patch.name for patch in PATCHES if patch.replacement is not None and _is_applied(patch)]


def _is_applied(patch: EnginePatch) -> bool:
    try:
        return hasattr(_target(patch)[2], _MARK)
    except (ImportError, AttributeError):  # this vLLM has no such code
        return False


def _apply(patch: EnginePatch) -> None:
    holder, name, original = _target(patch)
    if hasattr(original, _MARK):
        return
    assert patch.replacement is not None, "only patches with a replacement are applied"
    replaced = patch.replacement(original)
    setattr(replaced, _MARK, patch.name)
    if not isinstance(holder, ModuleType):
        setattr(holder, name, staticmethod(replaced))  # the original came bound to its class already
        return
    setattr(holder, name, replaced)
    # vLLM's modules import functions from each other by name: each of them holds a reference of its own.
    package = holder.__name__.rpartition(".")[0]
    for other in map(importlib.import_module, (package, *_ALSO_HELD.get(patch.name, ()))):
        if getattr(other, name, None) is original:
            setattr(other, name, replaced)


def _target(patch: EnginePatch) -> tuple[Any, str, Any]:
    assert patch.target is not None, "a patch with a replacement has a target"
    holder: Any = importlib.import_module(patch.target[0])
    *classes, name = patch.target[1].split(".")
    for found in classes:
        holder = getattr(holder, found)
    return holder, name, getattr(holder, name)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _zero_base_tokens(shrink: Any) -> Any:
    """vLLM marks a token without an adapter by slot index -1, and its CPU ops gather by that index, which in torch
    means the last slot. The shrunk activations of such tokens are zeroed, so whatever is gathered adds nothing.
    """

    def patched(
        inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, scaling)
        if len(lora_indices_tensor) == len(output_tensor):  # not so for prompt log-probabilities, refused at the gate
            output_tensor[lora_indices_tensor < 0] = 0

    return patched


def _group_by_adapter(punica: Any) -> Any:
    from gateway.engines.plugin.lora_cpu import grouped

    return grouped(punica)


def _choose_kernels(check_and_update: Any) -> Any:
    from gateway.engines.plugin.eager_cpu import eager_kernels

    return eager_kernels(check_and_update)


def _sleep(_spin: Any) -> Any:
    """Measured on two cores: a stream stood still for 3 s, a cancelled request ran to its end, and an unrelated process
    slept 3.9 s instead of 5 ms. A short sleep costs no throughput there.
    """

    def pause() -> None:
        time.sleep(_PAUSE_S)

    return pause


def _fork(_context: Any) -> Any:
    """vLLM spawns on the CPU because workers read their OpenMP settings as they start, which they still do. The core
    runs one thread, and vLLM forks it on GPUs. Measured on two busy cores: an engine was ready after 32 s and 40 s of
    CPU time, and after 57 s and 58 s without this.
    """

    def forking() -> Any:
        return multiprocessing.get_context("fork")

    return forking


def _compact_json(manager: Any) -> Any:
    """vLLM takes `disable_any_whitespace` only beside a fixed backend, and a fixed backend refuses schemas that "auto"
    hands to the next one. A backend named in the engine's arguments keeps whatever they say about whitespace.
    """
    build = manager.__init__

    def patched(self: Any, vllm_config: Any) -> None:
        outputs = vllm_config.structured_outputs_config
        if outputs.backend == "auto":
            object.__setattr__(outputs, "disable_any_whitespace", True)
        build(self, vllm_config)

    manager.__init__ = patched  # the class itself: other modules hold it by name
    return manager


_ALSO_HELD = {"cpu-mixed-batch": ("vllm.lora.punica_wrapper.punica_cpu",)}
PATCHES = (
    EnginePatch(
        "cpu-mixed-batch",
        PatchPlace.ENGINE,
        "In a batch of base and adapter requests, base tokens get the adapter of the last slot (vLLM PR 48421, 49656).",
        "Our plugin zeroes the adapter's part of base tokens.",
        cpu_only=True,
        target=("vllm.lora.ops.torch_ops.lora_ops", "bgmv_shrink"),
        replacement=_zero_base_tokens,
    ),
    EnginePatch(
        "cpu-slow-lora",
        PatchPlace.ENGINE,
        "CPU engines gather an adapter's whole matrices once per token: prefill is 18 times slower than the base's.",
        "Our plugin multiplies once per adapter and layer; tokens of the base are left alone.",
        cpu_only=True,
        target=("vllm.lora.punica_wrapper.punica_cpu", "PunicaWrapperCPU"),
        replacement=_group_by_adapter,
    ),
    EnginePatch(
        "cpu-slow-norms",
        PatchPlace.ENGINE,
        "With LoRA, CPU engines run uncompiled, yet with the torch code that is meant to be compiled.",
        "Our plugin chooses vLLM's own kernels for norms and rotary embeddings.",
        cpu_only=True,
        target=("vllm.platforms.cpu", "CpuPlatform.check_and_update_config"),
        replacement=_choose_kernels,
    ),
    EnginePatch(
        "cpu-spin",
        PatchPlace.ENGINE,
        "Waiting engine processes spin on sched_yield and starve everything else on few cores.",
        "Our plugin lets them sleep 50 µs instead.",
        cpu_only=True,
        target=("vllm.distributed.device_communicators.shm_broadcast", "sched_yield"),
        replacement=_sleep,
    ),
    EnginePatch(
        "cpu-core-spawn",
        PatchPlace.ENGINE,
        "On a CPU the engine's core is spawned and imports all of torch and vLLM, as the API server just did.",
        "Our plugin forks it from the API server, which vLLM does itself on GPUs.",
        cpu_only=True,
        target=("vllm.v1.engine.utils", "get_mp_context"),
        replacement=_fork,
    ),
    EnginePatch(
        "json-whitespace",
        PatchPlace.ENGINE,
        "Answers under a JSON schema may run away into line breaks until max_tokens: any whitespace is allowed.",
        "Our plugin sets disable_any_whitespace where the backend for structured outputs is 'auto'.",
        target=("vllm.v1.structured_output", "StructuredOutputManager"),
        replacement=_compact_json,
    ),
    EnginePatch(
        "unload-only-forgets",
        PatchPlace.ENGINE,
        "/v1/unload_lora_adapter forgets the name and leaves the weights in the engine (vLLM 54839, 42633).",
        "Our plugin removes them from slot and cache; the gateway verifies that they are gone.",
    ),
    EnginePatch(
        "hub-pulls",
        PatchPlace.START,
        "A lora_path that is no directory is fetched from a hub.",
        "The engine runs with HF_HUB_OFFLINE=1.",
    ),
    EnginePatch(
        "open-paths",
        PatchPlace.START,
        "/adapters, /invocations, /tokenize and others stay open even with vLLM's API key.",
        "The engine demands a secret of its own on every path but /health, and listens on loopback only.",
    ),
    EnginePatch(
        "unlisted-paths",
        PatchPlace.GATEWAY,
        "vLLM serves paths that load adapters, reveal file paths or control the engine.",
        "Only listed paths are relayed.",
    ),
    EnginePatch(
        "load-inplace",
        PatchPlace.GATEWAY,
        "load_inplace re-reads the files at every step, under running requests, and keeps stale prefix cache (33791).",
        "Refused; a version's engine name and path hold its digest, and never change their content.",
    ),
    EnginePatch(
        "missing-file",
        PatchPlace.GATEWAY,
        "An evicted adapter is read again within a step; when its files are gone the engine dies (5105).",
        "Files are hashed before each load and locked until the adapter is unloaded from every engine.",
    ),
    EnginePatch(
        "unknown-names",
        PatchPlace.GATEWAY,
        "Each unknown model name costs vLLM a lock and an id that are never freed.",
        "Names that the registry does not hold never reach the engine.",
    ),
    EnginePatch(
        "unbounded-names",
        PatchPlace.GATEWAY,
        "vLLM's list of adapter names only grows.",
        "The least recently used adapter is unloaded before one more than max_cpu_loras is loaded.",
    ),
    EnginePatch(
        "load-stalls",
        PatchPlace.GATEWAY,
        "Loads run inside the engine's step loop, so every stream waits for them.",
        "One load at a time per engine, shared by all requests for the same adapter, and measured.",
    ),
    EnginePatch(
        "silent-adapters",
        PatchPlace.GATEWAY,
        "Many kinds of broken adapters load, and the base answers under their name (34186, 55193).",
        "Preflight matches every tensor to a module before the load; a probe compares with the base after it.",
    ),
)
