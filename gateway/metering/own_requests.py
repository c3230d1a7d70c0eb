"""The gateway's own requests to an engine, such as probes: booked on the ledger under a key and tenant of their own.

Without them the ledger could not agree with the engine's counters.
"""

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gateway.core import Usage
from gateway.metering.entry import OWN_KEY, Finish, LedgerEntry
from gateway.metering.ledger import Ledger


@dataclass(slots=True)
class OwnRequest:
    """One own request: the id to send to the engine, and the engine's answer, to be set by the caller."""

    request_id: str
    answer: Mapping[str, Any] | None = None


class OwnRequests:
    """Books the gateway's own requests to one engine; `run()` returns the engine's present run."""

    def __init__(
        self, ledger: Ledger, engine: str, run: Callable[[], str | None], settle: Callable[[LedgerEntry], None]
    ):
        self._ledger = ledger
        self._engine = engine
        self._run = run
        self._settle = settle
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()

    @contextmanager
    def record(self, path: str, body: Mapping[str, Any]) -> Iterator[OwnRequest]:
        """Open a row for the request made in this context and settle it; raises `DiskError` when it is not durable."""
        entry = self._entry(path, str(body.get("model", "")))
        self._ledger.open(entry)
        entry.mark_sent()
        request = OwnRequest(entry.request_id)
        try:
            yield request
        finally:
            usage = None if request.answer is None else request.answer.get("usage")
            if usage:
                entry.usage = Usage.from_openai(usage)
                entry.evidence = entry.usage.evidence
            elif request.answer is None:
                entry.finish, entry.status = Finish.ENGINE_ERROR, 502
            else:
                entry.finish, entry.status = Finish.REFUSED, 404
            self._settle(entry)

    def _entry(self, path: str, model: str) -> LedgerEntry:
        name, is_adapter, _ = model.partition("@")
        return LedgerEntry(
            request_id=f"req_{self._process}{next(self._numbers):08x}-own",
            tenant=OWN_KEY,
            key_id=OWN_KEY,
            model=model,
            adapter=name if is_adapter else None,
            digest=None,
            stream=False,
            endpoint=path,
            engine=self._engine,
            engine_run=self._run(),
        )
