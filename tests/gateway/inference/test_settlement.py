"""Settling what was cut off: the row gets what the engine says, once it knows."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.background import Background
from gateway.core import Usage, UsageSource
from gateway.costs.request_price import RequestPrices
from gateway.engines.client import EngineUsage
from gateway.errors import DiskError
from gateway.inference.settlement import Settlement
from gateway.metering import Finish, LedgerEntry
from gateway.metrics import Metrics


async def settled(*answers: EngineUsage) -> LedgerEntry:
    """A row that was cut off, after an engine gave these answers one after the other."""
    said = list(answers)

    async def worked_on(_request_id: str) -> EngineUsage:
        return said.pop(0)

    client = SimpleNamespace(worked_on=worked_on)
    engine = SimpleNamespace(name="engine-0", run="run-1", is_ready=True, client=client)
    kept: list[LedgerEntry] = []
    ledger: Any = SimpleNamespace(note=lambda _entry: None, settle=kept.append)
    pool: Any = SimpleNamespace(ready=[engine])
    settlement = Settlement(ledger, pool, RequestPrices(), Metrics(), Background().group("asking"))
    entry = LedgerEntry("r", "acme", "k", "base", None, None, False, "/v1/chat/completions", engine="engine-0")
    entry.engine_run, entry.finish = "run-1", Finish.CLIENT_ABORT
    settlement.settle(entry)
    await settlement.close()
    assert kept == [entry]
    assert not said, "every answer was asked for"
    return entry


async def test_an_engine_that_read_the_question_before_the_request_is_asked_again() -> None:
    entry = await settled(EngineUsage(Usage(0, 0, 0), 1), EngineUsage(Usage(7, 2, 0), 1))
    assert (entry.usage, entry.evidence) == (Usage(7, 2, 0), UsageSource.EXACT)


async def test_an_engine_that_knows_nothing_twice_never_worked_on_it() -> None:
    entry = await settled(EngineUsage(Usage(0, 0, 0), 1), EngineUsage(Usage(0, 0, 0), 1))
    assert (entry.usage, entry.evidence) == (Usage(0, 0, 0), UsageSource.EXACT)


async def test_a_second_attempt_that_the_disk_refuses_was_on_no_engine() -> None:
    opened: list[str | None] = []

    def refuse(entry: LedgerEntry) -> None:
        opened.append(entry.engine)
        raise DiskError("full")

    parts: Any = SimpleNamespace(open_next_attempt=refuse)
    settlement = Settlement(parts, parts, RequestPrices(), Metrics(), Background().group("asking"))
    entry = LedgerEntry("r", "acme", "k", "base", None, None, False, "/v1/chat/completions", engine="engine-0")
    run: Any = SimpleNamespace(entry=entry, context=SimpleNamespace(api=SimpleNamespace(metered=True)))
    with pytest.raises(DiskError):
        settlement.begin_attempt(run, SimpleNamespace(name="engine-1", run="run-2"))  # type: ignore[arg-type]
    assert (opened, entry.engine, entry.engine_run) == ([None], None, None)
