"""Wait for a condition: the one polling loop of the tests."""

import asyncio
import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], timeout_s: float = 60.0, poll_s: float = 0.02) -> bool:
    """Return whether the condition becomes true within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0, poll_s: float = 0.02) -> None:
    """Return once the condition is true; fail after `timeout_s` seconds."""
    assert eventually(condition, timeout_s, poll_s), f"the condition never became true within {timeout_s:g} s"


async def eventually_async(condition: Callable[[], object], timeout_s: float = 60.0, poll_s: float = 0.01) -> bool:
    """Return whether the condition becomes true within `timeout_s` seconds, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(poll_s)
    return True
