"""How long prompt and answer can be together, as the engines say."""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from gateway.engine.engine import Engine
from gateway.errors import GatewayError

_FRESH_S = 60.0
_ANSWER_S = 5.0


class ContextLength:
    """Asks each engine once a minute at the most: an attached one may come back with another length."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._known: dict[str, tuple[float, int | None]] = {}

    async def tokens(self) -> int | None:
        """The longest context of the engines that serve; None when one of them does not say."""
        longest = 0
        now_s = time.monotonic()
        for engine in self._engines:
            if not engine.is_ready:
                continue
            known_s, length = self._known.get(engine.name, (now_s - _FRESH_S, None))
            if now_s - known_s >= _FRESH_S:
                length = await self._ask(engine, length)
            if length is None:
                return None
            longest = max(longest, length)
        return longest or None

    async def _ask(self, engine: Engine, length: int | None) -> int | None:
        """The length now; what was known last when the engine does not say in time: a request waits for this."""
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                length = await engine.client.context_tokens()
        self._known[engine.name] = (time.monotonic(), length)
        return length
