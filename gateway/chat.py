"""The life of a chat request on one page: resolve -> ledger -> pin -> engine, contexts that clean up after themselves.

Leaving the contexts, exactly once and however the request ended: the engine's stream is closed, the adapter unpinned,
the row settled, the metrics counted.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.auth import Caller
from gateway.engine.client import CHAT_COMPLETIONS, EngineClient, EngineResponse, translate
from gateway.engine.loader import AdapterLoader
from gateway.engine.supervisor import Supervisor
from gateway.errors import EngineFailedError, GatewayError, InvalidRequestError
from gateway.ledger import Entry, Evidence, Finish, Ledger, now_us
from gateway.metrics import Metrics
from gateway.resolve import Resolver, Target
from gateway.sse import StreamRewriter
from gateway.usage import Usage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request: the fields the gateway must know, and the whole document for the engine."""

    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    document: dict[str, Any]

    @classmethod
    def parse(cls, body: bytes) -> "ChatRequest":
        """Read a request body; raises `InvalidRequestError` naming the field. Fields nobody here knows go to the
        engine.
        """
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"The body is not JSON ({error}); send a JSON object.") from error
        if not isinstance(document, dict):
            raise InvalidRequestError('The body is not a JSON object; send {"model": …, "messages": […]}.')
        model = _typed(document, "model", str, "a model name, as /v1/models lists them", required=True)
        messages = _typed(document, "messages", list, "a list of messages", required=True)
        if not model:
            raise InvalidRequestError("'model' is empty; name a model, as /v1/models lists them.", param="model")
        if not messages:
            raise InvalidRequestError("'messages' is empty; send at least one message.", param="messages")
        stream = _typed(document, "stream", bool, "true or false")
        options = _typed(document, "stream_options", dict, "an object") or {}
        return cls(
            model,
            bool(stream),
            bool(options.get("include_usage")),
            bool(options.get("continuous_usage_stats")),
            document,
        )

    def engine_body(self, engine_model: str) -> bytes:
        """What the engine is asked: its own name for the model, and running token counts on streams."""
        changed: dict[str, Any] = {"model": engine_model}
        if self.stream:
            changed["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return orjson.dumps(self.document | changed)


def _typed(document: dict[str, Any], name: str, kind: type, meaning: str, *, required: bool = False) -> Any:
    value = document.get(name)
    if isinstance(value, kind) or (value is None and not required):
        return value
    problem = "is missing" if value is None else f"has the wrong type ({type(value).__name__})"
    raise InvalidRequestError(f"'{name}' {problem}; it must be {meaning}.", param=name)


class Exchange:
    """One request whose engine answer has begun: `headers`, then either `read()` or `stream()`."""

    def __init__(self, request: ChatRequest, target: Target, entry: Entry, response: EngineResponse) -> None:
        self._request = request
        self._response = response
        self._entry = entry
        self._target = target
        self._fingerprint = f"turntable+{target.engine_model}"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Which weights answer."""
        return [(b"x-turntable-adapter", self._target.engine_model.encode())] if self._target.version else []

    async def read(self) -> bytes:
        """The whole answer of a request that did not ask for a stream."""
        body = await self._response.read()
        self._entry.mark_first_byte()
        try:
            document = orjson.loads(body)
            usage = Usage.from_openai(document["usage"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EngineFailedError("The engine answered something that is not a chat completion.") from error
        self._entry.usage, self._entry.evidence = usage, Evidence.EXACT
        return orjson.dumps(document | {"model": self._request.model, "system_fingerprint": self._fingerprint})

    async def stream(self) -> AsyncIterator[bytes]:
        """The answer's events for the client; token counts are kept up to date while it runs."""
        rewriter = StreamRewriter(
            engine_model=self._target.engine_model,
            client_model=self._request.model,
            fingerprint=self._fingerprint,
            include_usage=self._request.include_usage,
            continuous_usage=self._request.continuous_usage,
        )
        try:
            async for chunk in self._response.chunks():
                if events := rewriter.feed(chunk):
                    self._entry.mark_first_byte()
                    yield events
                if rewriter.saw_error:
                    raise EngineFailedError("The engine failed on this request; its log has the details.")
            if not rewriter.saw_done:
                raise EngineFailedError("The engine broke off in the middle of the answer.")
        finally:
            if usage := rewriter.usage:
                self._entry.usage = usage
                self._entry.evidence = Evidence.EXACT if rewriter.saw_final_usage else Evidence.LAST_CONTINUOUS


class Chat:
    """Opens exchanges: the one place where a request's steps stand in order."""

    def __init__(
        self,
        resolver: Resolver,
        ledger: Ledger,
        loader: AdapterLoader,
        supervisor: Supervisor,
        client: EngineClient,
        metrics: Metrics,
    ) -> None:
        self._resolver = resolver
        self._ledger = ledger
        self._loader = loader
        self._supervisor = supervisor
        self._client = client
        self._metrics = metrics

    @contextlib.asynccontextmanager
    async def exchange(self, caller: Caller, request: ChatRequest) -> AsyncIterator[Exchange]:
        """Everything that may still become an HTTP status happens before this yields."""
        target = self._resolver.resolve(request.model)
        self._supervisor.require_ready()
        body = request.engine_body(target.engine_model)
        async with (
            self._entry(caller, request, target) as entry,
            self._loader.pin(target.version),
            self._client.post(CHAT_COMPLETIONS, body) as response,
        ):
            if response.status != 200:
                raise translate(response.status, await response.read())
            yield Exchange(request, target, entry, response)

    @contextlib.asynccontextmanager
    async def _entry(self, caller: Caller, request: ChatRequest, target: Target) -> AsyncIterator[Entry]:
        version = target.version
        entry = Entry(
            request_id=f"req_{secrets.token_hex(12)}",
            tenant=caller.tenant,
            key_id=caller.key_id,
            model=request.model,
            adapter=version.name if version else None,
            digest=version.digest if version else None,
            stream=request.stream,
        )
        await self._ledger.open(entry)
        with self._metrics.in_flight.track_inprogress():
            try:
                yield entry
            except asyncio.CancelledError:
                entry.finish, entry.status = Finish.CLIENT_ABORT, 499
                raise
            except GatewayError as error:
                entry.finish = Finish.REFUSED if error.status < 500 else Finish.ENGINE_ERROR
                entry.status = error.status
                raise
            finally:
                await asyncio.shield(asyncio.create_task(self._settle(entry, target)))

    async def _settle(self, entry: Entry, target: Target) -> None:
        label = target.label
        self._metrics.requests.labels(label, str(entry.status)).inc()
        self._metrics.tokens.labels(label, "prompt").inc(entry.usage.prompt_tokens)
        self._metrics.tokens.labels(label, "completion").inc(entry.usage.completion_tokens)
        self._metrics.latency_s.labels(label).observe((now_us() - entry.opened_us) / 1e6)
        if entry.ttft_us is not None:
            self._metrics.ttft_s.labels(label).observe(entry.ttft_us / 1e6)
        try:
            await self._ledger.settle(entry)
        except Exception:
            self._metrics.unsettled.inc()
            log.exception("ledger: settling %s failed; usage %s", entry.request_id, entry.usage)
