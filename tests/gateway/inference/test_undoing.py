"""Whatever raises or is cancelled at whatever step of a request: all that the request held is given back, once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.mock_engine.engine import Fault
from tests.gateway.inference.small_gateway import NOTHING, held, is_idle, small_gateway
from tests.gateway.inference.step_hooks import REQUEST, replaced


class DefectError(Exception):
    """A defect of ours, injected."""


def fail() -> None:
    raise DefectError


def leave() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("act", "first"), [(fail, True), (leave, True), (leave, False)])
async def test_a_request_that_ends_at_any_step_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], first: bool, stream: bool
) -> None:
    async with small_gateway(tmp_path, monkeypatch) as here:
        await here.assert_all_is_given_back("at first")
        met = set()
        for step in here.steps():
            with monkeypatch.context() as patches:
                acted = replaced(step, patches, act, first=first)
                task = asyncio.create_task(here.ask(stream=stream), name=REQUEST)
                await asyncio.wait([task])
                met.update(acted)
                if acted and act is fail and not task.cancelled() and task.exception() is None:
                    answer = task.result()
                    assert "server_error" in answer.text, step
            await here.assert_all_is_given_back(step)
        only_whole, only_streams = {"read", "whole", "send_whole"}, {"next_chunk", "pump", "stream", "drained"}
        only_streams |= {"send_events", "send_end"}
        await here.assert_all_rows_are_settled()
        unmet = {name for _, name in here.steps()} - met - {"drained"}  # not when all comes at once
        assert unmet <= (only_whole if stream else only_streams)


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("ending", ["answered", "late"])
async def test_a_step_of_the_end_that_fails_keeps_no_other_one_and_not_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    async with small_gateway(tmp_path, monkeypatch, first_byte_timeout_s=0.3) as here:
        await here.assert_all_is_given_back("at first")
        met = set()
        for step in here.undoing():
            with monkeypatch.context() as patches:
                acted = replaced(step, patches, fail, first=False)
                hangs = {} if ending == "answered" else {"mock_fault": Fault.HANG, "stream": True}
                task = asyncio.create_task(here.ask(**hangs), name=REQUEST)
                await asyncio.wait([task])
                assert await is_idle(here.pipeline, NOTHING), (step, held(here.pipeline))
                met.update(acted)
            assert task.result().status_code == (200 if ending == "answered" else 504), step
            await here.assert_all_is_given_back(step)
        await here.assert_all_rows_are_settled()
        never = {"answered": {"note"}, "late": {"learn_pace", "give_back"}}
        assert {name for _, name in here.undoing()} - met <= never[ending]
