"""Base class of the inference APIs: parse a request, make the engine's body, rewrite the answer, shape errors."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import orjson

from gateway.core import InferenceRequest, Usage, UsageSource
from gateway.errors import EngineFailedError, GatewayError, InvalidRequestError
from gateway.inference.formats.fields import PROMPTS, check_fields, count_prompts, count_sequences
from gateway.inference.formats.grammars import binding_field, check_schemas
from gateway.inference.request_guards import UNSERVED_FIELDS, guard_request

_GENERATION_FAILED = b'"Internal server error"'
"""The engine's only message when generation fails, for example when a grammar does not compile."""
_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LIMIT = re.compile(rf"\b(?:{'|'.join(_LIMITS)})\b")


@dataclass(slots=True)
class Names:
    """A model's names: the engine's, the client's, and `fingerprint`, which names the exact weights."""

    engine_model: str
    client_model: str

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint` of answers."""
        return f"turntable+{self.engine_model}"


class StreamRewriter(Protocol):
    """Rewrite an engine's event stream into the client's, whatever the chunking, and count its tokens."""

    saw_end: bool
    """The stream is complete."""
    failure: EngineFailedError | None
    """The engine reported a failure inside the stream, or sent something that is no answer."""
    failure_event: bytes
    """The engine's own event about its failure, which clients do not get."""

    def feed(self, chunk: bytes) -> bytes:
        """Rewrite a chunk; returns whole events for the client, possibly none."""
        ...

    def count(self) -> tuple[Usage, UsageSource]:
        """Return the tokens of the stream so far and their source."""
        ...


class Api(ABC):
    """One path of the engine that clients may call. Requests are parsed once and never changed after."""

    path: ClassVar[str]
    metered: ClassVar[bool] = True
    """Whether answers cost tokens: such requests are on the ledger."""
    streams: ClassVar[bool] = True
    """Whether `stream` means anything; where it does not, it is an unknown field like others."""
    id_field: ClassVar[str | None] = None
    """The field that names a request to the engine, where it does not read `x-request-id`."""
    required: ClassVar[dict[str, tuple[type, ...]]] = {}
    """Fields besides `model` that a request must have, with their types; empty values count as missing."""

    salted: ClassVar[bool] = False
    """Whether the engine keeps the prefixes of prompts apart by `cache_salt`."""

    keep_alive: ClassVar[bytes] = b": keep-alive\n\n"
    """Sent in a stream while the engine sends nothing; clients ignore it."""

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        """Parse and guard a request body; raises `InvalidRequestError` naming the field. Unknown fields pass."""
        document = _object(body)
        model = self._model(document, base)
        for name, kinds in self.required.items():
            _require(document, name, kinds)
        check_fields(self.path, document)
        guard_request(self.path, document, len(body))
        check_schemas(document)
        salt = document.get("cache_salt")
        if salt is not None and not isinstance(salt, str):
            raise InvalidRequestError("'cache_salt' has the wrong type; it must be text.", param="cache_salt")
        stream = document.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise InvalidRequestError("'stream' has the wrong type; it must be true or false.", param="stream")
        sequences = count_sequences(self.path, document)
        return InferenceRequest(model, bool(stream) and self.streams, document, body, sequences)

    def engine_body(
        self,
        request: InferenceRequest,
        engine_model: str,
        *,
        request_id: str = "",
        salt: str | None = None,
        template_kwargs: Mapping[str, Any] = _NO_KWARGS,
    ) -> bytes:
        """Return the engine's body: all of the client's fields, with each change that the gateway makes, made here.

        The engine's name for the model, our request id where it is a field, the maximum of tokens of the client's key,
        the tenant's `salt` for the prefix cache, the `template_kwargs` that the adapter was trained with, where the
        client sets no others, and what the API needs (`_engine_fields`); without `UNSERVED_FIELDS`.
        Raises `InvalidRequestError` when the request is nested too deep to be written.
        """
        document = request.document | self._engine_fields(request)
        document["model"] = engine_model
        if request.token_limit is not None:
            field, tokens = request.token_limit
            document[field] = tokens
        if self.id_field is not None and request_id:
            document[self.id_field] = f"resp_{request_id}"
        if salt is not None and self.salted:
            document["cache_salt"] = salt
        if template_kwargs and ("messages" in document or self.path == "/v1/responses"):
            own = document.get("chat_template_kwargs") or {}
            document["chat_template_kwargs"] = {**template_kwargs, **own} if isinstance(own, dict) else own
        for name in UNSERVED_FIELDS:
            document.pop(name, None)
        return dump(document)

    def most_tokens(self, request: InferenceRequest) -> int:
        """Return the maximum of tokens of one answer that the engine was sent; a large number without one."""
        limits = [request.limit(name) for name in _LIMITS]
        return min((limit for limit in limits if isinstance(limit, int)), default=1 << 31)

    def choices(self, request: InferenceRequest) -> int:
        """Return the answers to each prompt that a request asks for; the engine counts the prompt for each."""
        return 1

    def sequences_field(self, request: InferenceRequest) -> str:
        """Name the field that is responsible for most of a request's sequences."""
        prompts = count_prompts(self.path, request.document)
        return PROMPTS[self.path] if prompts * prompts >= request.sequences else "n"

    def explain(self, request: InferenceRequest, error: GatewayError, answer: bytes) -> GatewayError:
        """Translate an engine's error into the terms of the request; `answer` is what the engine sent.

        The engine may name another field for the maximum of tokens than the client did, and has the same message for
        its own failures and for grammars that it cannot compile.
        """
        if isinstance(error, InvalidRequestError) and (found := _LIMIT.search(str(error))):
            own = found[0] if request.limit(found[0]) is not None else None
            name = own or next((name for name in _LIMITS if request.limit(name) is not None), None)
            if name is not None and error.param in (None, *_LIMITS):
                return InvalidRequestError(_LIMIT.sub(name, str(error)), param=name, code=error.code)
        if isinstance(error, EngineFailedError) and _GENERATION_FAILED in answer:
            field = binding_field(request.document)
            if field is not None:
                return InvalidRequestError(
                    f"The engine cannot generate what '{field}' requires; check its grammar, schema or pattern.",
                    param=field,
                )
        return error

    @abstractmethod
    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        """Rewrite a whole answer and count its tokens; raises `EngineFailedError` when it is no complete answer."""

    def stream(self, request: InferenceRequest, names: Names) -> StreamRewriter:
        """Return a rewriter for the answer to one streaming request."""
        raise EngineFailedError(f"{self.path} does not stream.")

    def error_body(self, error: GatewayError) -> bytes:
        """Return an error as the body of an HTTP response."""
        return error.body()

    def error_event(self, error: GatewayError, _sent: bytes = b"") -> bytes:
        """Return an error as the last event of a stream that has begun, after the events `_sent`."""
        return b"data: " + error.body() + b"\n\n"

    def _engine_fields(self, request: InferenceRequest) -> dict[str, Any]:
        """Return the fields that the engine needs besides, or instead of, the client's own."""
        return {}

    def _model(self, document: dict[str, Any], base: str) -> str:
        return _require(document, "model", (str,))  # type: ignore[no-any-return]


def dump(document: dict[str, Any]) -> bytes:
    """Write a document as JSON; raises `InvalidRequestError` when it is nested too deep."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise InvalidRequestError("The request is nested too deep; 250 levels are served.") from error


def read_answer(body: bytes) -> dict[str, Any]:
    """Parse an engine's answer; raises `EngineFailedError` unless it is a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EngineFailedError("The engine's answer is not JSON.") from error
    if not isinstance(document, dict):
        raise EngineFailedError("The engine's answer is not a JSON object.")
    return document


def write_answer(document: dict[str, Any]) -> bytes:
    """Write a rewritten answer as JSON; raises `EngineFailedError` when it is nested too deep."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise EngineFailedError("The engine answered something that is nested too deep.") from error


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not JSON ({error}); send a JSON object.") from error
    if not isinstance(document, dict):
        raise InvalidRequestError("The body is not a JSON object; send one with at least a 'model'.")
    return document


_TYPE_NAMES = {str: "text", list: "a list", int: "a whole number", dict: "an object"}


def _require(document: dict[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = document.get(name)
    if isinstance(value, kinds) and value and not isinstance(value, bool):
        return value
    wanted = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
    if value is None:
        raise InvalidRequestError(f"'{name}' is missing; it must be {wanted}.", param=name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        found = type(value).__name__
        raise InvalidRequestError(f"'{name}' has the wrong type ({found}); it must be {wanted}.", param=name)
    if value in ("", []):
        raise InvalidRequestError(f"'{name}' is empty; it must be {wanted} with something in it.", param=name)
    return value
