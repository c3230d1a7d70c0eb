"""The working set: what was used lately, and one sentence when it outgrows the slots."""

from gateway.engines.residency import ThrashMonitor, WorkingSet
from gateway.metrics import Metrics


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_only_what_was_used_within_five_minutes_counts() -> None:
    clock = Clock()
    used = WorkingSet(clock)
    used.touch("old")
    clock.now_s = 200
    used.touch("new")
    used.touch("newer")
    used.touch("new")
    assert used.names() == ["old", "newer", "new"]
    clock.now_s = 301
    assert used.names() == ["newer", "new"]
    clock.now_s = 600
    assert used.names() == []


def test_a_working_set_beyond_the_slots_is_announced_once_and_its_end_once() -> None:
    clock, metrics = Clock(), Metrics()
    used = WorkingSet(clock)
    said: list[str] = []
    thrash = ThrashMonitor("engine-0", used, metrics.adapters, said.append)
    for name in ("a", "b", "c"):
        used.touch(name)
        thrash.check(2)
    used.touch("d")
    thrash.check(2)
    assert len(said) == 1
    assert "--max-loras 4" in said[0]
    assert thrash.warning.startswith("4 adapters were used")
    exposed = metrics.render().decode()
    assert 'turntable_adapter_working_set{engine="engine-0"} 4.0' in exposed
    assert 'turntable_adapter_slots{engine="engine-0"} 2.0' in exposed
    assert 'turntable_adapter_thrash{engine="engine-0"} 1.0' in exposed
    clock.now_s = 400
    thrash.check(2)
    thrash.check(2)
    assert len(said) == 2
    assert thrash.warning == ""
    assert 'turntable_adapter_thrash{engine="engine-0"} 0.0' in metrics.render().decode()
