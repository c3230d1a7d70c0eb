"""The only file that knows vLLM's URLs: what the gateway asks of one engine, and what its errors mean.

What an engine counted for one request, by its own account.

What an engine says it has worked: vLLM's own Prometheus counters, as far as they count tokens.
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
from gateway.engines.http import MOST_ANSWER_BYTES, ConnectionPool, EngineConnection, Request
from gateway.engines.plugin.finished_requests import TOKENS
from gateway.engines.plugin.key_guard import PROOF, prove
from gateway.engines.plugin.residency import ADAPTERS, ALIVE, PIN, REMOVE
from gateway.engines.residency import ResidencyReport
from gateway.errors import AdapterRefusedError, EngineFailedError, GatewayError, InvalidRequestError
from gateway.metering import OwnRequests


class Health(StrEnum):
    """What came of a health check: an answer of 200, nothing in time, or an error or no connection."""

    UP = "up"
    SLOW = "slow"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Tokens as clients are billed them, and how often the engine counted each prompt token; 0 tokens when the request
    never got as far as the engine's work.
    """

    usage: Usage
    choices: int

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "EngineUsage":
        """Read the plugin's answer; raises `EngineFailedError` while the request still runs."""
        if document["running"]:
            raise EngineFailedError("The engine has not ended this request yet.")
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


_LINE = re.compile(
    r"^vllm:(prompt_tokens_total|prompt_tokens_cached_total|generation_tokens_total|prompt_tokens_created)"
    r"(?:\{[^\n]*\})? (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Tokens since the engine began, over all its parts.

    `cached_tokens` are the part of `prompt_tokens` that was not computed again. `began` tells one run of an engine from
    every other: when its counters were made; empty for an engine that does not say.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    began: str

    @classmethod
    def parse(cls, text: str) -> "EngineCounters | None":
        """Read Prometheus' text format; None when there are no such counters in it."""
        found: dict[str, list[float]] = defaultdict(list)
        for name, value in _LINE.findall(text):
            found[name].append(float(value))
        if "prompt_tokens_total" not in found or "generation_tokens_total" not in found:
            return None
        prompt, cached, completion = (
            round(sum(found[f"{name}_total"]))
            for name in ("prompt_tokens", "prompt_tokens_cached", "generation_tokens")
        )
        created = found["prompt_tokens_created"]
        return cls(prompt, cached, completion, f"{min(created):.6f}" if created else "")


_COMPLETIONS = "/v1/completions"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HEALTHY_S = 1.0
_NO_SUCH_PATH = (404, 405)
_ENGINE_DEAD = b"EngineCore encountered an issue"
_CONTEXT_LENGTH = re.compile(rb"maximum context length|longer than the maximum model length")
_NO_PARSER = b"--tool-call-parser"
_VALIDATION = re.compile(r"'loc': 'body\.([\w.]+)', 'msg': '([^']*)'")
_NOTE = re.compile(r" \(parameter=.*\)$", re.MULTILINE)
_PATHS = re.compile(r"(?<![\w.])/(?:[\w.@-]+/)+[\w.@-]*")


class EngineClient:
    """One engine at `url`. Times are seconds: `idle_timeout_s` is the longest silence within an answer."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._own_requests: OwnRequests | None = None
        self._connections = ConnectionPool(
            self.url,
            connect_timeout_s=connect_timeout_s,
            idle_timeout_s=idle_timeout_s,
            most_answer_bytes=most_answer_bytes,
        )
        self._connections.api_key = api_key

    def use_key(self, api_key: str | None) -> None:
        """Show this key to the engine from now on; nothing is sent on connections made before."""
        self._connections.close()
        self._connections.api_key = api_key

    async def knows(self, api_key: str) -> bool:
        """Whether what listens at `url` knows a key, found out without telling it; needs our plugin."""
        nonce = secrets.token_hex(16)
        try:
            async with asyncio.timeout(_HEALTHY_S), self._connections.request("GET", f"{PROOF}{nonce}") as answer:
                return secrets.compare_digest(await answer.read(), prove(api_key, nonce).encode())
        except (GatewayError, TimeoutError):
            return False

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Request:
        """Send a request; leaving the context early closes the connection, and the engine stops working on it.

        Raises `EngineUnreachableError` only when the engine never saw the request.
        """
        return self._connections.request("POST", path, body, headers)

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> EngineConnection:
        """Send a request; returns once the response headers are here, and `give_back` must follow.

        Raises `EngineUnreachableError` only when the engine never saw the request.
        """
        return await self._connections.send("POST", path, body, headers)

    def give_back(self, connection: EngineConnection) -> None:
        """Keep a connection whose response was read to its end; close any other, so the engine stops working on it."""
        self._connections.give_back(connection)

    async def health(self) -> Health:
        """Ask the engine's health check, for `_HEALTHY_S` at most."""
        try:
            async with asyncio.timeout(_HEALTHY_S), self._connections.request("GET", "/health") as answer:
                await answer.read()
                return Health.UP if answer.status == 200 else Health.DOWN
        except TimeoutError:
            return Health.SLOW
        except GatewayError:
            return Health.DOWN

    async def is_healthy(self) -> bool:
        """Whether the engine answers its health check in time."""
        return await self.health() is Health.UP

    async def is_alive(self) -> bool:
        """Whether the engine's core and its workers still take turns, by their own answer; returns when they answer, so
        give it a time. Of an engine without our plugin, or whose key is missing, only the server is asked.
        """
        try:
            async with self._connections.request("GET", ALIVE) as answer:
                await answer.read()
        except GatewayError:
            return False
        return answer.status == 200 or (answer.status in (401, *_NO_SUCH_PATH) and await self.is_healthy())

    async def version(self) -> str:
        """The engine's own version."""
        with _understood("/version"):
            return str((await self._get("/version"))["version"])

    async def counters(self) -> EngineCounters | None:
        """How many tokens the engine has worked on since it began; None when it does not tell."""
        async with self._connections.request("GET", "/metrics") as answer:
            body = await answer.read()
        with _understood("/metrics"):
            return EngineCounters.parse(body.decode("utf-8", "replace")) if answer.status == 200 else None

    async def worked_on(self, request_id: str) -> EngineUsage | None:
        """What a request of ours took that has ended; None when this engine cannot say. Needs our plugin.

        Raises `EngineFailedError` while it still runs.
        """
        async with self._connections.request("GET", f"{TOKENS}?request={request_id}") as answer:
            body = await answer.read()
        if answer.status in _NO_SUCH_PATH:
            return None
        if answer.status != 200:
            raise EngineFailedError(f"The engine answered {answer.status} to the question what a request took.")
        with _understood(TOKENS):
            return EngineUsage.parse(_object(TOKENS, body))

    async def context_tokens(self) -> int | None:
        """How long prompt and answer can be together; None when the engine does not say."""
        with _understood("/v1/models"):
            models = (await self._get("/v1/models")).get("data") or [{}]
            length = models[0].get("max_model_len")
        return length if isinstance(length, int) else None

    async def load_adapter(self, engine_name: str, path: str) -> bool:
        """Load an adapter into a slot; False when the engine knew the name already and did nothing.

        Raises `AdapterRefusedError` in the engine's words when it will not.
        """
        body = orjson.dumps({"lora_name": engine_name, "lora_path": path})
        async with self.post("/v1/load_lora_adapter", body, {}) as answer:
            told = await answer.read()
        if _ENGINE_DEAD in told:  # a dead engine refuses everything; which load it died of is judged elsewhere
            raise EngineFailedError("The engine died while it loaded an adapter.")
        is_known = b"already been loaded" in told
        if answer.status != 200 and not is_known:
            raise AdapterRefusedError(f"The engine refused the adapter: {engine_message(told)}")
        return not is_known

    async def forget_adapter(self, engine_name: str) -> None:
        """Take an adapter's name away; its weights stay in the engine until others push them out."""
        await self._call("/v1/unload_lora_adapter", {"lora_name": engine_name}, also=404)

    async def residents(self) -> ResidencyReport | None:
        """The adapters in the engine by tier; None when the engine runs without our plugin."""
        async with self._connections.request("GET", ADAPTERS) as answer:
            body = await answer.read()
        if answer.status in _NO_SUCH_PATH:
            return None
        if answer.status == 401:
            raise EngineFailedError("The engine refuses the gateway's key; state the engine's own as engine_api_key.")
        if answer.status != 200:
            raise EngineFailedError(f"The engine answered {answer.status} when asked for its adapters.")
        with _understood(ADAPTERS):
            return ResidencyReport.parse(_object(ADAPTERS, body))

    async def remove_adapter(self, engine_name: str) -> bool:
        """Take an adapter, and weights without a name, out of the engine; whether they are gone. Needs our plugin."""
        with _understood(REMOVE):
            return bool((await self._call(REMOVE, {"name": engine_name}))["gone"])

    async def pin_adapter(self, engine_name: str, *, pinned: bool) -> None:
        """Keep an adapter in its slot, or let it go again. Needs our plugin."""
        await self._call(PIN, {"name": engine_name, "pinned": pinned}, also=404)

    def record_own_requests(self, own_requests: OwnRequests) -> None:
        """Register the recorder that books the gateway's own requests to this engine on the ledger."""
        self._own_requests = own_requests

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One request for completions that is the gateway's own; without "choices" the base completes no texts."""
        if self._own_requests is None:
            return await self._call(_COMPLETIONS, body, also=404)
        with self._own_requests.record(_COMPLETIONS, body) as own:
            own.answer = await self._call(_COMPLETIONS, body, also=404, headers={"x-request-id": own.request_id})
            return own.answer

    def close(self) -> None:
        """Close the connections that are idle."""
        self._connections.close()

    async def _call(
        self, path: str, body: Mapping[str, Any], *, also: int = 200, headers: Mapping[str, str] = _NO_HEADERS
    ) -> dict[str, Any]:
        async with self.post(path, orjson.dumps(body), headers) as answer:
            told = await answer.read()
        if answer.status not in (200, also):
            raise EngineFailedError(f"The engine answered {answer.status} to {path}: {engine_message(told)}")
        return _object(path, told) if told.startswith(b"{") else {}

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._connections.request("GET", path) as answer:
            return _object(path, await answer.read())


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """Whatever is wrong with an answer is the engine's fault, not the end of whoever asked."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise EngineFailedError(
            f"The engine answered {path} in a way that this gateway does not understand ({error!r}); an engine with "
            "Turntable's plugin needs that of the gateway's own version."
        ) from error


def _object(path: str, body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise EngineFailedError(f"The engine answered {path} without JSON.") from error
    if not isinstance(document, dict):
        raise EngineFailedError(f"The engine answered {path} without a JSON object.")
    return document


def translate(path: str, status: int, body: bytes) -> GatewayError:
    """An engine's error answer as one of ours: requests at fault keep its words and get a 400, all else is the
    engine's failure.
    """
    if status == 404 and b'"error"' not in body:
        return InvalidRequestError(f"This base model does not serve {path}; it needs another kind of model.")
    if status == 400 and _NO_PARSER in body:
        return InvalidRequestError(
            "Tools cannot be called here: the engine runs without a parser for this model's tool calls. Leave out "
            "'tools' and 'tool_choice'. An operator whose model calls tools names its parser in engine_args; "
            "`turntable serve` says at its start which it chose, and why (docs/reference/clients.md).",
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
    """Whether the engine refuses a request because it has no model of that name."""
    return f"`{name}` does not exist".encode() in body


def engine_message(body: bytes) -> str:
    """The engine's explanation in one line, with file paths and its parameter note taken out."""
    try:
        document = orjson.loads(body)
        message = document.get("error", document).get("message") or document.get("detail")
    except (ValueError, AttributeError):
        message = None
    text = str(message or "no reason given")
    if found := _VALIDATION.search(text):
        text = f"'{found[1]}': {found[2]}"
    return _PATHS.sub("<path>", _NOTE.sub("", text).splitlines()[0])[:500]


def _engine_param(body: bytes) -> str | None:
    try:
        param = orjson.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return param.removeprefix("body.") if isinstance(param, str) else None
