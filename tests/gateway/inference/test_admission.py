"""Admission: slots, the queue behind them, and what is told to those who are turned away."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import OverloadedError
from gateway.inference.admission import Admission


@asynccontextmanager
async def slot(admission: Admission) -> AsyncIterator[None]:
    """Hold a slot."""
    await admission.acquire()
    try:
        yield
    finally:
        admission.release()


@asynccontextmanager
async def holding(admission: Admission, count: int) -> AsyncIterator[asyncio.Event]:
    """Hold `count` slots until the event is set."""
    release = asyncio.Event()

    async def hold() -> None:
        async with slot(admission):
            await release.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(count)]
    await asyncio.sleep(0)
    yield release
    release.set()
    await asyncio.gather(*tasks)


async def queued(admission: Admission, count: int) -> None:
    """Return once `count` requests wait for a slot."""
    for _ in range(10 * count):
        await asyncio.sleep(0)
    assert admission.waiting == count


async def test_slots_are_given_back_however_the_request_ends() -> None:
    admission = Admission(2, max_waiting=0, max_wait_s=1)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            async with slot(admission):
                _ = 1 / 0
    assert admission.running == 0


async def test_those_who_wait_go_in_order() -> None:
    admission, order = Admission(1, max_waiting=10, max_wait_s=60), list[int]()

    async def request(number: int) -> None:
        async with slot(admission):
            order.append(number)

    async with holding(admission, 1) as release:
        waiting = [asyncio.create_task(request(number)) for number in range(5)]
        await queued(admission, 5)
        release.set()
        await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_full_queue_rejects_the_next_request_at_once() -> None:
    admission = Admission(1, max_waiting=1, max_wait_s=60)

    async def request() -> None:
        async with slot(admission):
            pass

    async with holding(admission, 1):
        first = asyncio.create_task(request())
        await queued(admission, 1)
        with pytest.raises(OverloadedError, match="queue is full") as refused:
            await request()
    await first
    assert refused.value.status == 503
    assert refused.value.code == "server_is_overloaded"
    assert refused.value.retry_after_s >= 1


async def test_a_wait_past_the_deadline_is_refused_and_leaves_the_queue() -> None:
    admission = Admission(1, max_waiting=5, max_wait_s=0.01)
    async with holding(admission, 1):
        with pytest.raises(OverloadedError, match="within"):
            async with slot(admission):
                pass
        assert admission.waiting == 0
    assert admission.running == 0


async def test_a_client_that_leaves_the_queue_loses_no_slot() -> None:
    admission = Admission(1, max_waiting=5, max_wait_s=60)

    async def request() -> None:
        async with slot(admission):
            pass

    async with holding(admission, 1) as release:
        leaving, staying = asyncio.create_task(request()), asyncio.create_task(request())
        await queued(admission, 2)
        release.set()
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving, staying])
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_client_that_leaves_in_the_moment_in_which_a_slot_comes_free_loses_no_slot() -> None:
    admission = Admission(1, max_waiting=5, max_wait_s=60)
    await admission.acquire()
    leaving, staying = asyncio.create_task(admission.acquire()), asyncio.create_task(admission.acquire())
    await queued(admission, 2)
    leaving.cancel()  # and before its task runs again:
    admission.release()
    await asyncio.wait([leaving, staying])
    assert leaving.cancelled()
    assert staying.result() > 0
    admission.release()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_wait_that_ends_while_a_slot_comes_free_is_refused_and_loses_no_slot() -> None:
    admission, loop = Admission(1, max_waiting=5, max_wait_s=0.01), asyncio.get_running_loop()
    await admission.acquire()
    late = asyncio.create_task(admission.acquire())
    await queued(admission, 1)
    loop.call_later(0.01, admission.release)  # due in the same turn of the loop as the time limit
    threading.Event().wait(0.05)
    await asyncio.wait([late])
    assert isinstance(late.exception(), OverloadedError)
    await queued(admission, 0)
    assert admission.running == 0


async def test_retry_after_grows_with_the_queue() -> None:
    admission = Admission(1, max_waiting=1000, max_wait_s=60)
    for _ in range(3):
        async with slot(admission):
            await asyncio.sleep(0.02)

    async def request() -> None:
        async with slot(admission):
            pass

    async with holding(admission, 1):
        waiting = [asyncio.create_task(request()) for _ in range(500)]
        await queued(admission, 500)
        assert admission.retry_after_s() > 3
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert admission.running == 0
