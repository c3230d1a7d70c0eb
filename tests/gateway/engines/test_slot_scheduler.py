"""Slot scheduler: never more adapters than slots, groups start together, and no adapter starves."""

import asyncio
import random
from collections import Counter

import pytest

from gateway.engines.slot_scheduler import SlotScheduler


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def turns_with(slots: int, *, patience_s: float = 1.0) -> tuple[SlotScheduler, Clock]:
    clock = Clock()
    turns = SlotScheduler(patience_s=patience_s, clock=clock)
    turns.slots = slots
    return turns, clock


async def asked(turns: SlotScheduler, *names: str) -> list["asyncio.Task[None]"]:
    """Ask for turns, one after the other."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(turns.enter(name)))
        await asyncio.sleep(0)
    return tasks


async def test_as_many_adapters_run_as_there_are_slots_and_a_freed_slot_starts_a_whole_group() -> None:
    turns, _ = turns_with(2)
    await asked(turns, "a", "b")
    waiting = await asked(turns, "c", "d", "c")
    assert [task.done() for task in waiting] == [False, False, False]
    turns.leave("b")
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, False, True]
    turns.leave("a")
    await asyncio.sleep(0)
    assert all(task.done() for task in waiting)


async def test_requests_of_a_running_adapter_go_ahead_until_patience_ends_then_its_slot_is_given_away() -> None:
    turns, clock = turns_with(2)
    await asked(turns, "a", "b")
    (cold,) = await asked(turns, "cold")
    (more,) = await asked(turns, "a")
    assert more.done()
    clock.now_s = 1.5
    late, other = await asked(turns, "a", "b")
    assert (late.done(), other.done()) == (False, True), "the turn that began first ends, the other goes on"
    turns.leave("a")
    turns.leave("a")
    await asyncio.sleep(0)
    assert (cold.done(), late.done()) == (True, False)
    turns.leave("cold")
    await asyncio.sleep(0)
    assert late.done()


async def test_a_cancelled_wait_takes_no_slot_and_delays_no_other_request() -> None:
    turns, _ = turns_with(1)
    await asked(turns, "a")
    gone, other = await asked(turns, "b", "c")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    turns.leave("a")
    await asyncio.sleep(0)
    assert other.done()
    cut_off = (await asked(turns, "d"))[0]
    turns.leave("c")  # the turn comes, and in the same moment its client goes
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    assert (await asked(turns, "e"))[0].done()
    assert turns.waiting == 0


@pytest.mark.parametrize("others", [(), ("b",), ("c",), ("b", "c", "b")])
async def test_who_leaves_in_the_moment_in_which_a_slot_comes_free_holds_nobody_up(others: tuple[str, ...]) -> None:
    turns, _ = turns_with(1)
    await asked(turns, "a")
    gone, *staying = await asked(turns, "b", *others)
    gone.cancel()  # and before its task runs again:
    turns.leave("a")
    await asyncio.wait([gone])
    assert gone.cancelled()
    for name, task in sorted(zip(others, staying, strict=True), key=lambda turn: turn[0]):
        await asyncio.sleep(0)
        assert task.done()
        turns.leave(name)
    assert turns.waiting == 0
    assert (await asked(turns, "e"))[0].done()


async def test_while_the_slots_are_unknown_all_requests_run() -> None:
    turns, _ = turns_with(0)
    assert all(task.done() for task in await asked(turns, *"abcdefgh"))


@pytest.mark.parametrize("seed", range(20))
async def test_every_request_gets_a_slot_while_hot_adapters_never_pause(seed: int) -> None:
    draw = random.Random(seed)
    slots, longest_s = draw.randint(1, 4), 3.0
    hot = [f"hot-{number}" for number in range(slots)]
    cold = [f"cold-{number}" for number in range(draw.randint(1, 6))]
    turns, clock = turns_with(slots)
    ends: list[tuple[float, str]] = []
    waits: list[tuple[str, float, asyncio.Task[None]]] = []
    # A request waits for those before it: each takes at most the patience and two of the longest requests.
    bound_s = (len(cold) + len(hot) + 1) * (1.0 + 2 * longest_s)
    for _ in range(3_000):
        clock.now_s += 0.05
        for end in [end for end in ends if end[0] <= clock.now_s]:
            ends.remove(end)
            turns.leave(end[1])
        wanted = [*hot, *([draw.choice(cold)] if draw.random() < 0.1 else [])]
        for name in wanted:
            if sum(1 for other, _, _ in waits if other == name) < 3:
                waits.append((name, clock.now_s, (await asked(turns, name))[0]))
        await asyncio.sleep(0)
        for wait in [wait for wait in waits if wait[2].done()]:
            waits.remove(wait)
            ends.append((clock.now_s + draw.uniform(0.1, longest_s), wait[0]))
        assert len(Counter(name for _, name in ends)) <= slots
        assert all(clock.now_s - asked_s < bound_s for _, asked_s, _ in waits), "somebody starves"
    for _, _, task in waits:
        task.cancel()
