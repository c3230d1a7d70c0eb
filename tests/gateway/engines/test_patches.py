"""The patches of the engine plugin: each defect in the bare engine's own code, and its absence once patched."""

import subprocess
import sys

import pytest

from gateway.engines.plugin.patches import PATCHES, EnginePatch, PatchPlace

# In a process of its own: the patch changes vLLM's modules for good.
MIXED_BATCH = """
import torch
from vllm.lora.ops.torch_ops import lora_ops

def delta_of_base_token():
    weights = torch.stack([torch.zeros(4, 8), torch.ones(4, 8)]).unsqueeze(1)  # two slots, the last one full
    shrunk = torch.zeros(2, 4)
    slots = torch.tensor([0, -1])  # an adapter token, then a base token
    lora_ops.bgmv_shrink(torch.ones(2, 8), weights, shrunk, slots, 1.0)
    return shrunk[1].abs().sum().item()

from gateway.engines.plugin.patches import register
bare = delta_of_base_token()
register()
register()
print(bare, delta_of_base_token())
"""


def test_base_tokens_get_nothing_from_the_last_slot_once_patched() -> None:
    result = subprocess.run([sys.executable, "-c", MIXED_BATCH], capture_output=True, text=True, check=True)
    bare, patched = map(float, result.stdout.split()[-2:])
    assert bare > 0, "vLLM has mended its CPU op: the patch is no longer needed"
    assert patched == 0


SPIN = """
import os, time, zmq
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

calls = []
os.sched_yield, time.sleep = lambda: calls.append("spin"), lambda _s: calls.append("sleep")
waiting = SpinCondition(is_reader=True, context=zmq.Context(), notify_address="inproc://nobody")
waiting.wait()
from gateway.engines.plugin.patches import register
register()
waiting.record_read()
waiting.wait()
print(*calls)
"""


def test_waiting_engine_processes_sleep_once_patched() -> None:
    result = subprocess.run([sys.executable, "-c", SPIN], capture_output=True, text=True, check=True)
    bare, patched = result.stdout.split()[-2:]
    assert bare == "spin", "vLLM no longer spins: the patch is no longer needed"
    assert patched == "sleep"


SPAWN = """
import inspect, os
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.engine import utils
from vllm.v1.executor import multiproc_executor
from gateway.engines.plugin.patches import register

assert 'os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"' in inspect.getsource(CpuPlatform)
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
methods = [utils.get_mp_context().get_start_method()]
register()
methods += [module.get_mp_context().get_start_method() for module in (utils, multiproc_executor)]
print(*methods)
"""


def test_the_core_is_forked_and_its_workers_are_spawned_once_patched() -> None:
    result = subprocess.run([sys.executable, "-c", SPAWN], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"vLLM no longer spawns on a CPU: the patch is no longer needed\n{result.stderr}"
    bare, core, worker = result.stdout.split()[-3:]
    assert (bare, core, worker) == ("spawn", "fork", "spawn")


WHITESPACE = """
from types import SimpleNamespace
from vllm.config.structured_outputs import StructuredOutputsConfig
from vllm.v1.structured_output import StructuredOutputManager

class Seen(Exception): pass
def build(self, config):
    raise Seen(config.structured_outputs_config.disable_any_whitespace)
StructuredOutputManager.__init__ = build

def disabled(**options):
    config = SimpleNamespace(structured_outputs_config=StructuredOutputsConfig(**options))
    try:
        StructuredOutputManager(config)
    except Seen as seen:
        return seen.args[0]

from gateway.engines.plugin.patches import register
bare = disabled()
register()
register()
print(bare, disabled(), disabled(backend="xgrammar"), disabled(backend="guidance", disable_any_whitespace=True))
"""


def test_json_is_compact_once_patched_unless_the_arguments_name_a_backend() -> None:
    result = subprocess.run([sys.executable, "-c", WHITESPACE], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-4:] == ["False", "True", "False", "True"]


def test_every_patch_says_in_a_sentence_what_it_is_against_and_what_it_does() -> None:
    assert len({patch.name for patch in PATCHES}) == len(PATCHES) > 10
    for patch in PATCHES:
        assert patch.defect.endswith(".")
        assert patch.measure.endswith(".")
        assert (patch.replacement is None) == (patch.target is None)
        assert patch.replacement is None or patch.place is PatchPlace.ENGINE


@pytest.mark.parametrize(
    ("version", "is_cpu", "needed"),
    [("0.32.0", True, True), ("0.32.0", False, False), ("0.33.0", True, False), ("0.34.1+cpu", True, False)],
)
def test_a_patch_is_needed_on_its_platform_until_the_version_that_fixed_it(
    version: str, is_cpu: bool, needed: bool
) -> None:
    patch = EnginePatch("x", PatchPlace.ENGINE, "Defect.", "Measure.", cpu_only=True, fixed_in="0.33.0")
    assert patch.is_needed(version, is_cpu=is_cpu) is needed
    assert not any(known.is_needed(version, is_cpu=False) for known in PATCHES if known.cpu_only)
