"""vLLM client: requests, health, adapters and token counts of one engine, and the meaning of its errors.

Only this file knows vLLM's URLs.
"""

import asyncio
import contextlib
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson

from gateway.core import Usage
from gateway.engines.http import MAX_ANSWER_BYTES, ConnectionPool, EngineConnection, Request
from gateway.engines.plugin.finished_requests import TOKENS
from gateway.engines.plugin.key_guard import PROOF, prove
from gateway.engines.plugin.residency import ADAPTERS, ALIVE, PIN, REMOVE
from gateway.engines.residency import ResidencyReport
from gateway.errors import AdapterRefusedError, EngineFailedError, GatewayError, InvalidRequestError
from gateway.metering import OwnRequests

_COMPLETIONS = "/v1/completions"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HEALTH_TIMEOUT_S = 1.0
_NO_SUCH_PATH = (404, 405)
_ENGINE_DEAD = b"EngineCore encountered an issue"
_CONTEXT_LENGTH = re.compile(rb"maximum context length|longer than the maximum model length")
_NO_TOOL_PARSER = b"--tool-call-parser"
_VALIDATION_ERROR = re.compile(r"'loc': 'body\.([\w.]+)', 'msg': '([^']*)'")
_PARAMETER_NOTE = re.compile(r" \(parameter=.*\)$", re.MULTILINE)
_FILE_PATH = re.compile(r"(?<![\w.])/(?:[\w.@-]+/)+[\w.@-]*")
_COUNTER_LINE = re.compile(
    r"^vllm:(prompt_tokens_total|prompt_tokens_cached_total|generation_tokens_total|prompt_tokens_created)"
    r"(?:\{[^\n]*\})? (\S+)$",
    re.MULTILINE,
)


class Health(StrEnum):
    """Result of a health check: status 200 (UP), no answer in time (SLOW), an error or no connection (DOWN)."""

    UP = "up"
    SLOW = "slow"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Tokens of a request by the engine's own count; 0 tokens when the engine never computed anything for it.

    `usage` has each prompt once, as clients are billed; the engine's counters have it once per choice (`choices`).
    """

    usage: Usage
    choices: int

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "EngineUsage":
        """Parse the plugin's answer; raises `EngineFailedError` while the request still runs."""
        if document["running"]:
            raise EngineFailedError("The engine has not finished this request yet.")
        prompts: dict[str, tuple[int, int]] = {}
        counted = generated = 0
        for prompt, prompt_tokens, cached_tokens, completion_tokens in document["parts"]:
            before = prompts.get(prompt, (0, 0))
            prompts[prompt] = max(before[0], prompt_tokens), max(before[1], cached_tokens)
            counted += prompt_tokens
            generated += completion_tokens
        prompt_tokens, cached_tokens = (sum(tokens[place] for tokens in prompts.values()) for place in (0, 1))
        choices = round(counted / prompt_tokens) if prompt_tokens else 1
        return cls(Usage(prompt_tokens, generated, cached_tokens), choices)


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """vLLM's token counters since the engine started, summed over its processes.

    `cached_tokens` is the part of `prompt_tokens` taken from the prefix cache. `began`, the creation time of the
    counters, identifies the run of the engine; empty for an engine that does not report it.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    began: str

    @classmethod
    def parse(cls, text: str) -> "EngineCounters | None":
        """Parse Prometheus' text format; None when the counters are missing."""
        found: dict[str, list[float]] = defaultdict(list)
        for name, value in _COUNTER_LINE.findall(text):
            found[name].append(float(value))
        if "prompt_tokens_total" not in found or "generation_tokens_total" not in found:
            return None
        prompt, cached, completion = (
            round(sum(found[f"{name}_total"]))
            for name in ("prompt_tokens", "prompt_tokens_cached", "generation_tokens")
        )
        created = found["prompt_tokens_created"]
        return cls(prompt, cached, completion, f"{min(created):.6f}" if created else "")


class EngineClient:
    """HTTP client of the engine at `url`; `idle_timeout_s` bounds the time without data within an answer."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._own_requests: OwnRequests | None = None
        self._connections = ConnectionPool(
            self.url,
            connect_timeout_s=connect_timeout_s,
            idle_timeout_s=idle_timeout_s,
            max_answer_bytes=max_answer_bytes,
        )
        self._connections.api_key = api_key

    def use_key(self, api_key: str | None) -> None:
        """Send this key with all further requests, and only on new connections."""
        self._connections.close()
        self._connections.api_key = api_key

    async def proves_key(self, api_key: str) -> bool:
        """Whether the server at `url` proves that it knows `api_key`, without sending it the key; needs our plugin."""
        nonce = secrets.token_hex(16)
        try:
            async with (
                asyncio.timeout(_HEALTH_TIMEOUT_S),
                self._connections.request("GET", f"{PROOF}{nonce}") as answer,
            ):
                return secrets.compare_digest(await answer.read(), prove(api_key, nonce).encode())
        except (GatewayError, TimeoutError):
            return False

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Request:
        """Return a context that sends a request; leaving it early closes the connection, so the engine aborts.

        Entering raises `EngineUnreachableError` only when the engine never received the request.
        """
        return self._connections.request("POST", path, body, headers)

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> EngineConnection:
        """Send a request; returns once the response headers have arrived, and `release` must follow.

        Raises `EngineUnreachableError` only when the engine never received the request.
        """
        return await self._connections.send("POST", path, body, headers)

    def release(self, connection: EngineConnection) -> None:
        """Return a connection to the pool if its response was read to its end; else close it: the engine aborts."""
        self._connections.release(connection)

    async def health(self) -> Health:
        """Run vLLM's health check."""
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S), self._connections.request("GET", "/health") as answer:
                await answer.read()
                return Health.UP if answer.status == 200 else Health.DOWN
        except TimeoutError:
            return Health.SLOW
        except GatewayError:
            return Health.DOWN

    async def is_healthy(self) -> bool:
        """Whether vLLM's health check succeeds in time."""
        return await self.health() is Health.UP

    async def is_alive(self) -> bool:
        """Probe whether the engine's core and workers respond; without our plugin or its key, only the HTTP server.

        Returns when they respond, so set a timeout.
        """
        try:
            async with self._connections.request("GET", ALIVE) as answer:
                await answer.read()
        except GatewayError:
            return False
        return answer.status == 200 or (answer.status in (401, *_NO_SUCH_PATH) and await self.is_healthy())

    async def version(self) -> str:
        """Return vLLM's version."""
        with _readable("/version"):
            return str((await self._get("/version"))["version"])

    async def counters(self) -> EngineCounters | None:
        """Read vLLM's token counters; None when it does not expose them."""
        async with self._connections.request("GET", "/metrics") as answer:
            body = await answer.read()
        with _readable("/metrics"):
            return EngineCounters.parse(body.decode("utf-8", "replace")) if answer.status == 200 else None

    async def worked_on(self, request_id: str) -> EngineUsage | None:
        """Return the usage of a finished request by the engine's count; None when it cannot report it (no plugin).

        Raises `EngineFailedError` while the request still runs.
        """
        async with self._connections.request("GET", f"{TOKENS}?request={request_id}") as answer:
            body = await answer.read()
        if answer.status in _NO_SUCH_PATH:
            return None
        if answer.status != 200:
            raise EngineFailedError(f"The engine answered {answer.status} when asked for a request's token counts.")
        with _readable(TOKENS):
            return EngineUsage.parse(_object(TOKENS, body))

    async def context_tokens(self) -> int | None:
        """Return the context length in tokens; None when the engine does not report it."""
        with _readable("/v1/models"):
            models = (await self._get("/v1/models")).get("data") or [{}]
            length = models[0].get("max_model_len")
        return length if isinstance(length, int) else None

    async def load_adapter(self, engine_name: str, path: str) -> bool:
        """Load an adapter; False when the engine already had that name and did nothing.

        Raises `AdapterRefusedError` with vLLM's message when it refuses the adapter.
        """
        body = orjson.dumps({"lora_name": engine_name, "lora_path": path})
        async with self.post("/v1/load_lora_adapter", body, {}) as answer:
            response = await answer.read()
        if _ENGINE_DEAD in response:  # not a refusal: a dead engine answers every load with an error
            raise EngineFailedError("The engine died while it loaded an adapter.")
        is_known = b"already been loaded" in response
        if answer.status != 200 and not is_known:
            raise AdapterRefusedError(f"The engine refused the adapter: {engine_message(response)}")
        return not is_known

    async def forget_adapter(self, engine_name: str) -> None:
        """Unload an adapter by vLLM's own endpoint, which drops its name; the weights stay until they are evicted."""
        await self._call("/v1/unload_lora_adapter", {"lora_name": engine_name}, also=404)

    async def residents(self) -> ResidencyReport | None:
        """Report the engine's adapters by tier; None when the engine runs without our plugin."""
        async with self._connections.request("GET", ADAPTERS) as answer:
            body = await answer.read()
        if answer.status in _NO_SUCH_PATH:
            return None
        if answer.status == 401:
            raise EngineFailedError("The engine rejects the gateway's key; set engine_api_key to the engine's key.")
        if answer.status != 200:
            raise EngineFailedError(f"The engine answered {answer.status} when asked for its adapters.")
        with _readable(ADAPTERS):
            return ResidencyReport.parse(_object(ADAPTERS, body))

    async def remove_adapter(self, engine_name: str) -> bool:
        """Remove an adapter and all weights without a name; returns whether they are gone. Needs our plugin."""
        with _readable(REMOVE):
            return bool((await self._call(REMOVE, {"name": engine_name}))["gone"])

    async def pin_adapter(self, engine_name: str, *, pinned: bool) -> None:
        """Pin an adapter to its slot, or unpin it. Needs our plugin."""
        await self._call(PIN, {"name": engine_name, "pinned": pinned}, also=404)

    def record_own_requests(self, own_requests: OwnRequests) -> None:
        """Record the gateway's own requests to this engine on the ledger."""
        self._own_requests = own_requests

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a completions request of the gateway's own; an answer without "choices": the base serves none."""
        if self._own_requests is None:
            return await self._call(_COMPLETIONS, body, also=404)
        with self._own_requests.record(_COMPLETIONS, body) as own:
            own.answer = await self._call(_COMPLETIONS, body, also=404, headers={"x-request-id": own.request_id})
            return own.answer

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    async def _call(
        self, path: str, body: Mapping[str, Any], *, also: int = 200, headers: Mapping[str, str] = _NO_HEADERS
    ) -> dict[str, Any]:
        async with self.post(path, orjson.dumps(body), headers) as answer:
            response = await answer.read()
        if answer.status not in (200, also):
            raise EngineFailedError(f"The engine answered {answer.status} to {path}: {engine_message(response)}")
        return _object(path, response) if response.startswith(b"{") else {}

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._connections.request("GET", path) as answer:
            return _object(path, await answer.read())


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Raise `EngineFailedError` when reading the engine's answer fails in this context."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise EngineFailedError(
            f"The engine's answer to {path} has an unexpected format ({error!r}); install the same version of "
            "Turntable's plugin in the engine as in the gateway."
        ) from error


def _object(path: str, body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise EngineFailedError(f"The engine's answer to {path} is not JSON.") from error
    if not isinstance(document, dict):
        raise EngineFailedError(f"The engine's answer to {path} is not a JSON object.")
    return document


def translate(path: str, status: int, body: bytes) -> GatewayError:
    """Translate an engine's error response: bad requests keep vLLM's message and get a 400, the rest becomes a 502."""
    if status == 404 and b'"error"' not in body:
        return InvalidRequestError(f"This base model does not serve {path}; it needs another kind of model.")
    if status == 400 and _NO_TOOL_PARSER in body:
        return InvalidRequestError(
            "Tool calling is not available: the engine runs without a tool-call parser for this model. Leave out "
            "'tools' and 'tool_choice', or ask the operator to set the parser in engine_args; "
            "`turntable serve` prints at its start which parser it chose, and why (docs/reference/clients.md).",
            param="tools",
            code="tools_not_supported",
        )
    if status in (400, 404, 413, 422):
        code = "context_length_exceeded" if _CONTEXT_LENGTH.search(body) else None
        return InvalidRequestError(engine_message(body), param=_engine_param(body), code=code)
    if status == 501:
        return InvalidRequestError("This base model does not support what the request asks for.")
    return EngineFailedError("The engine failed on this request; its log has the details.")


def is_unknown_model(body: bytes, name: str) -> bool:
    """Whether the engine's 404 says that it has no model of that name."""
    return f"`{name}` does not exist".encode() in body


def engine_message(body: bytes) -> str:
    """Return vLLM's error message in one line, without file paths and its note about the parameter."""
    try:
        document = orjson.loads(body)
        message = document.get("error", document).get("message") or document.get("detail")
    except (ValueError, AttributeError):
        message = None
    text = str(message or "no reason given")
    if found := _VALIDATION_ERROR.search(text):
        text = f"'{found[1]}': {found[2]}"
    return _FILE_PATH.sub("<path>", _PARAMETER_NOTE.sub("", text).splitlines()[0])[:500]


def _engine_param(body: bytes) -> str | None:
    try:
        param = orjson.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return param.removeprefix("body.") if isinstance(param, str) else None
