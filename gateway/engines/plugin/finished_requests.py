"""Token counts of finished requests, as the engine added them to its Prometheus counters.

When a client disconnects, the engine sends no final usage for its request. vLLM's output processor has the counts in
the request's state at the moment it drops that state. The counts of the latest requests are kept by the gateway's
request id, which is part of vLLM's own ids.
"""

import asyncio
import re
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TOKENS = "/v1/turntable/tokens"
_GATEWAY_ID = re.compile(r"req_[0-9a-f]+(?:-[a-z]+)?")
_MAX_KEPT = 20_000
_POLL_S = 0.01
_MAX_POLLS = 200


class FinishedRequests:
    """Token counts of the latest finished requests by the gateway's id, one part for each answer to each prompt."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, list[tuple[str, int, int, int]]] = OrderedDict()
        self._processor: Any = None

    def attach(self, processor: Any) -> None:
        """Record each request that the engine's output processor finishes."""
        self._processor = processor
        processor.request_states = _ObservedDict(processor.request_states, self._record)

    async def show(self, request: Request) -> Response:
        """Return the token counts of `?request=`: prompt (0 when it was not computed), cached and generated, by part.

        No parts: the engine never computed anything for it, or its counts are no longer kept. 404: the engine keeps no
        statistics. Waits for a running request for up to two seconds.
        """
        name = request.query_params.get("request", "")
        if self._processor is None or not self._processor.log_stats:
            return JSONResponse({"error": {"message": "This engine keeps no statistics."}}, 404)
        for _ in range(_MAX_POLLS):
            if not self._is_running(name):
                break
            await asyncio.sleep(_POLL_S)
        return JSONResponse({"running": self._is_running(name), "parts": self._parts.get(name, [])})

    def _is_running(self, name: str) -> bool:
        return any(_gateway_id(external) == name for external in self._processor.external_req_ids)

    def _record(self, state: Any) -> None:
        if state.stats is None:
            return
        prompt_tokens = 0 if state.is_prefilling else state.prompt_len
        cached_tokens = 0 if state.is_prefilling else state.num_cached_tokens
        external = state.external_req_id
        part = (external, prompt_tokens, cached_tokens, state.stats.num_generation_tokens)
        self._parts.setdefault(_gateway_id(external), []).append(part)
        if len(self._parts) > _MAX_KEPT:
            self._parts.popitem(last=False)


class _ObservedDict(dict[str, Any]):
    """A dictionary that passes each popped value to `on_pop`."""

    def __init__(self, values: dict[str, Any], on_pop: Any) -> None:
        super().__init__(values)
        self._on_pop = on_pop

    def pop(self, key: str, *default: Any) -> Any:
        state = super().pop(key, *default)
        if state is not None:
            self._on_pop(state)
        return state


def _gateway_id(external: str) -> str:
    found = _GATEWAY_ID.search(external)
    return found[0] if found else external
