"""The common shape of an inference API: reading a request, asking the engine, rewriting its answer, telling errors."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson

from gateway.core import Usage, UsageSource
from gateway.errors import EngineFailedError, GatewayError, InvalidRequestError
from gateway.inference.formats.fields import PROMPTS, check_fields, count_prompts, count_sequences
from gateway.inference.formats.grammars import binding_field, check_schemas
from gateway.inference.request_guards import guard_request

_GENERATION_FAILED = b'"Internal server error"'
"""All that the engine says when it cannot do what a request asks for, as when a grammar does not compile."""
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LIMIT = re.compile(rf"\b(?:{'|'.join(_LIMITS)})\b")


@dataclass(slots=True)
class InferenceRequest:
    """One request as its client sent it: `document` is the whole JSON body, `body` its bytes; the engine has to work on
    `sequences` for it.
    """

    model: str
    stream: bool
    document: dict[str, Any]
    body: bytes
    sequences: int = 1


@dataclass(slots=True)
class Names:
    """What a model is called: by the engine, by the client, and by `fingerprint`, which names the exact weights."""

    engine_model: str
    client_model: str

    @property
    def fingerprint(self) -> str:
        """The `system_fingerprint` of answers."""
        return f"turntable+{self.engine_model}"


class StreamRewriter(Protocol):
    """Turns an engine's event stream into the client's, whatever the chunking, and keeps the token count."""

    saw_end: bool
    """The stream is complete."""
    failure: EngineFailedError | None
    """The engine reported a failure inside the stream, or sent what is no answer."""
    told: bytes
    """What the engine said of its failure, which was held back."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they came and return the bytes for the client: whole events, possibly none."""
        ...

    def count(self) -> tuple[Usage, UsageSource]:
        """The tokens of everything seen so far, and how well that is known."""
        ...


class Api(ABC):
    """One path of the engine that clients may call."""

    path: ClassVar[str]
    metered: ClassVar[bool] = True
    """Whether answers cost tokens: such requests are on the ledger."""
    streams: ClassVar[bool] = True
    """Whether `stream` means anything; where it does not, it is one of the fields nobody here knows."""
    id_field: ClassVar[str | None] = None
    """The field that names a request to the engine, where it does not read `x-request-id`."""
    required: ClassVar[dict[str, tuple[type, ...]]] = {}
    """Fields besides `model` that a request must have, with their types; empty values count as missing."""

    salted: ClassVar[bool] = False
    """Whether the engine keeps the prefixes of prompts apart by `cache_salt`."""

    keep_alive: ClassVar[bytes] = b": keep-alive\n\n"
    """What a stream carries while the engine is silent; clients ignore it."""

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        """Read a request body; raises `InvalidRequestError` naming the field. Unknown fields go to the engine."""
        document = _object(body)
        model = self._model(document, base)
        for name, kinds in self.required.items():
            _demand(document, name, kinds)
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

    def engine_body(self, request: InferenceRequest, engine_model: str, salt: str | None = None) -> bytes:
        """What the engine is asked: its own name for the model, our salt for its cache, all else as the client wrote
        it.
        """
        changed = self._changed(request) | {"model": engine_model}
        if salt is not None and self.salted:
            changed["cache_salt"] = salt
        return dump(request.document | changed)

    def most_tokens(self, request: InferenceRequest) -> int:
        """How many tokens a request may generate at the most, as its client limited it; a large number otherwise."""
        limits = [request.document.get(name) for name in _LIMITS]
        return min((limit for limit in limits if isinstance(limit, int)), default=1 << 31)

    def identify(self, request: InferenceRequest, request_id: str) -> None:
        """Have the engine know a request by our id, where it does not take that from a header."""
        if self.id_field is not None:
            request.document[self.id_field] = f"resp_{request_id}"

    def choices(self, request: InferenceRequest) -> int:
        """How many answers to each prompt a request asks for; the engine counts the prompt for each of them."""
        return 1

    def sequences_field(self, request: InferenceRequest) -> str:
        """The field that makes the most of the sequences of a request."""
        prompts = count_prompts(self.path, request.document)
        return PROMPTS[self.path] if prompts * prompts >= request.sequences else "n"

    def explain(self, request: InferenceRequest, error: GatewayError, told: bytes) -> GatewayError:
        """An engine's error in terms of the request: `told` is what the engine said. It names a limit by a field of its
        own choice, and has one sentence for its failures and for grammars that it cannot follow.
        """
        if isinstance(error, InvalidRequestError) and (found := _LIMIT.search(str(error))):
            own = found[0] if request.document.get(found[0]) is not None else None
            name = own or next((name for name in _LIMITS if request.document.get(name) is not None), None)
            if name is not None and error.param in (None, *_LIMITS):
                return InvalidRequestError(_LIMIT.sub(name, str(error)), param=name, code=error.code)
        if isinstance(error, EngineFailedError) and _GENERATION_FAILED in told:
            field = binding_field(request.document)
            if field is not None:
                return InvalidRequestError(
                    f"The engine cannot follow what '{field}' asks for; check its grammar, schema or pattern.",
                    param=field,
                )
        return error

    @abstractmethod
    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        """A complete answer for the client, and its tokens; raises `EngineFailedError` when it is not one."""

    def stream(self, request: InferenceRequest, names: Names) -> StreamRewriter:
        """A rewriter for the answer to one streaming request."""
        raise EngineFailedError(f"{self.path} does not stream.")

    def error_body(self, error: GatewayError) -> bytes:
        """An error as the body of an HTTP response."""
        return error.body()

    def error_event(self, error: GatewayError, _sent: bytes = b"") -> bytes:
        """An error as the last event of a stream that has begun, after `_sent`."""
        return b"data: " + error.body() + b"\n\n"

    def _changed(self, request: InferenceRequest) -> dict[str, Any]:
        """Fields that the engine gets instead of the client's."""
        return {}

    def _model(self, document: dict[str, Any], base: str) -> str:
        return _demand(document, "model", (str,))  # type: ignore[no-any-return]


def dump(document: dict[str, Any]) -> bytes:
    """A request for the engine as JSON; raises `InvalidRequestError` when it is nested too deep to be written."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise InvalidRequestError("The request is nested too deep; 250 levels are served.") from error


def read_answer(body: bytes) -> dict[str, Any]:
    """An engine's answer as a JSON object; raises `EngineFailedError` when it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EngineFailedError("The engine answered something that is not JSON.") from error
    if not isinstance(document, dict):
        raise EngineFailedError("The engine answered something that is not a JSON object.")
    return document


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not JSON ({error}); send a JSON object.") from error
    if not isinstance(document, dict):
        raise InvalidRequestError("The body is not a JSON object; send one with at least a 'model'.")
    return document


_MEANINGS = {str: "text", list: "a list", int: "a whole number", dict: "an object"}


def _demand(document: dict[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = document.get(name)
    if isinstance(value, kinds) and value and not isinstance(value, bool):
        return value
    wanted = " or ".join(_MEANINGS[kind] for kind in kinds)
    if value is None:
        raise InvalidRequestError(f"'{name}' is missing; it must be {wanted}.", param=name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        found = type(value).__name__
        raise InvalidRequestError(f"'{name}' has the wrong type ({found}); it must be {wanted}.", param=name)
    if value in ("", []):
        raise InvalidRequestError(f"'{name}' is empty; it must be {wanted} with something in it.", param=name)
    return value
