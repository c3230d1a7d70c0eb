"""The slot planner: what it plans follows from memory, ranks and working set, and it says so."""

from pathlib import Path

import pytest

from adapters import BaseModel
from adapters.peft_config import ENGINE_RANKS
from gateway.engines.slot_plan import SlotSettings, assumed_plan, bytes_per_slot, free_host_bytes, plan_slots

BASE = BaseModel(Path("base"), "0" * 64, {"layers.0.q_proj": (1000, 1000), "layers.0.down_proj": (1000, 3000)})
NOTHING = SlotSettings(None, None, None)
ROOM = 1 << 34


def test_a_slot_takes_its_rank_times_both_sides_of_every_module() -> None:
    assert bytes_per_slot(BASE, 16) == 16 * (2000 + 4000) * 2
    tied = BaseModel(BASE.path, BASE.config_sha256, {**BASE.modules, "model.embed_tokens": (5000, 1000)})
    assert bytes_per_slot(tied, 16) == 16 * (2000 + 4000 + 2 * 6000) * 2


def test_with_room_everything_that_gets_traffic_has_a_slot_and_one_more_for_a_swap() -> None:
    plan = plan_slots(NOTHING, BASE, ranks=[8] * 64, working_set=64, device_bytes=ROOM, host_bytes=ROOM)
    assert (plan.max_loras, plan.max_lora_rank) == (65, 16)
    assert plan.max_cpu_loras > plan.max_loras
    assert "65 adapter slots of rank 16" in plan.reason
    assert "64 adapters get traffic" in plan.reason


def test_without_memory_there_are_fewer_slots_and_the_reason_says_so() -> None:
    plan = plan_slots(
        NOTHING, BASE, ranks=[], working_set=64, device_bytes=100 * bytes_per_slot(BASE, 16), host_bytes=ROOM
    )
    assert plan.max_loras == 10
    assert "65 would be better" in plan.reason


def test_there_is_always_a_slot() -> None:
    plan = plan_slots(NOTHING, BASE, ranks=[], working_set=0, device_bytes=0, host_bytes=0)
    assert plan.max_loras == plan.max_cpu_loras == 1


@pytest.mark.parametrize(("highest", "planned"), [(1, 16), (16, 16), (17, 32), (65, 128), (257, 320), (512, 512)])
def test_the_rank_is_one_that_vllm_takes_and_every_registered_adapter_fits(highest: int, planned: int) -> None:
    plan = plan_slots(NOTHING, BASE, ranks=[1, highest], working_set=2, device_bytes=ROOM, host_bytes=ROOM)
    assert plan.max_lora_rank == planned
    assert planned in ENGINE_RANKS


def test_what_the_operator_sets_stands() -> None:
    given = SlotSettings(3, 5, 64)
    plan = plan_slots(given, BASE, ranks=[8], working_set=50, device_bytes=ROOM, host_bytes=ROOM)
    assert (plan.max_loras, plan.max_cpu_loras, plan.max_lora_rank) == (3, 5, 64)
    assert "as set" in plan.reason
    assumed = assumed_plan(given, "nobody knows")
    assert (assumed.max_loras, assumed.max_cpu_loras, assumed.max_lora_rank) == (3, 5, 64)
    assert "nobody knows" in assumed.reason


def test_this_machine_says_how_much_memory_it_has() -> None:
    assert 1 << 20 < free_host_bytes() < 1 << 50
