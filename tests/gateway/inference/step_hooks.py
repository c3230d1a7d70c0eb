"""Hooks into a request's steps: something happens once, at one call of the task named `REQUEST`."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.inference.small_gateway import Place

REQUEST = "the request"


def replaced(place: Place, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], *, first: bool) -> list[str]:
    """Have `act` called once, before or after the request's next call at a place; returns what says whether it was."""
    owner, name = place
    original, acted = getattr(owner, name), list[str]()

    def once() -> None:
        task = asyncio.current_task()
        if not acted and task is not None and task.get_name() == REQUEST:
            acted.append(name)
            act()

    @functools.wraps(original)
    def call(*given: Any, **named: Any) -> Any:
        if first:
            once()
            return original(*given, **named)
        result = original(*given, **named)
        once()
        return result

    @functools.wraps(original)
    async def call_async(*given: Any, **named: Any) -> Any:
        if first:
            once()
            await asyncio.sleep(0)  # where a cancellation comes in
            return await original(*given, **named)
        result = await original(*given, **named)
        once()
        return result

    is_async = inspect.iscoroutinefunction(original) or name == "_context_tokens"
    monkeypatch.setattr(owner, name, call_async if is_async else call)
    return acted
