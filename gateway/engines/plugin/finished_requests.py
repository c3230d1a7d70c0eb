"""What the engine counted for single requests that have ended: the very numbers that its Prometheus counters got.

A client that leaves ends its request without a last word from the engine, so the gateway cannot know how far it came.
vLLM's output processor knows: what it drops a request's state with is what it has counted. The latest requests are kept
by the gateway's id, which vLLM takes over as a part of its own ids.
"""

import asyncio
import re
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

TOKENS = "/v1/turntable/tokens"
_OURS = re.compile(r"req_[0-9a-f]+(?:-[a-z]+)?")
_KEPT = 20_000
_POLL_S = 0.01
_MOST_POLLS = 200


class EndedRequests:
    """The latest requests that ended, by the gateway's id: a part for each answer to each prompt."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, list[tuple[str, int, int, int]]] = OrderedDict()
        self._processor: Any = None

    def attach(self, processor: Any) -> None:
        """Watch the output processor of an engine."""
        self._processor = processor
        processor.request_states = _Watched(processor.request_states, self._ended)

    async def show(self, request: Request) -> Response:
        """What `?request=` took, once it has ended: parts of prompt (0 when it was not computed), cached and generated
        tokens. No parts: the engine never worked on it, or long ago. 404 when nothing can be known here.
        """
        name = request.query_params.get("request", "")
        if self._processor is None or not self._processor.log_stats:
            return JSONResponse({"error": {"message": "This engine keeps no statistics."}}, 404)
        for _ in range(_MOST_POLLS):
            if not self._is_running(name):
                break
            await asyncio.sleep(_POLL_S)
        return JSONResponse({"running": self._is_running(name), "parts": self._parts.get(name, [])})

    def _is_running(self, name: str) -> bool:
        return any(_name_of(external) == name for external in self._processor.external_req_ids)

    def _ended(self, state: Any) -> None:
        if state.stats is None:
            return
        prompt_tokens = 0 if state.is_prefilling else state.prompt_len
        cached_tokens = 0 if state.is_prefilling else state.num_cached_tokens
        external = state.external_req_id
        part = (external, prompt_tokens, cached_tokens, state.stats.num_generation_tokens)
        self._parts.setdefault(_name_of(external), []).append(part)
        if len(self._parts) > _KEPT:
            self._parts.popitem(last=False)


class _Watched(dict[str, Any]):
    """A dictionary that tells of each value taken out of it."""

    def __init__(self, values: dict[str, Any], taken: Any) -> None:
        super().__init__(values)
        self._taken = taken

    def pop(self, key: str, *default: Any) -> Any:
        state = super().pop(key, *default)
        if state is not None:
            self._taken(state)
        return state


def _name_of(external: str) -> str:
    found = _OURS.search(external)
    return found[0] if found else external
