"""Errors that an HTTP client can get, as one tree; only here and in `gateway.quota.errors` are status codes defined.

    GatewayError
    ├── InvalidRequestError      400  the request is malformed; `param` names the field
    │   ├── PoisonRequestError   400  the same request was running when an engine died
    │   └── BadFramingError      400  not well-formed HTTP/1.1, or ambiguous
    ├── AuthenticationError      401  no API key, or one that is unknown, expired or revoked
    ├── MissingScopeError        403  the key lacks the required scope
    ├── ModelNotFoundError       404  no such model, or not for this key (never distinguished)
    ├── UnknownUrlError          404  no such path
    ├── NotFoundError            404  no such adapter, version or other resource
    ├── MethodNotAllowedError    405
    ├── ClientTooSlowError       408  headers or body did not arrive in time
    ├── ConflictError            409  the current state is not the one that the request expects
    ├── RequestTooLargeError     413
    ├── UnsupportedEncodingError 415  unsupported content-encoding
    ├── ExpectationError         417  unsupported `expect` header
    ├── AdapterRefusedError      422  preflight or the engine refused an adapter
    ├── (quota.errors)           429  rate limits and budgets; 503 for a budget that cannot be checked
    ├── HeadersTooLargeError     431
    ├── InternalError            500  a defect of the gateway; the log has the traceback
    ├── EngineFailedError        502  the engine failed on the request, or its answer is invalid
    │   ├── EngineBrokeOffError       it closed the connection before its answer was complete
    │   └── EngineAnswerTooLargeError its answer exceeds max_answer_bytes
    ├── EngineUnavailableError   503  no engine is ready; `retry-after` says when to retry
    │   ├── AdapterGoneError          the adapter is unloaded by others as soon as it is loaded
    │   ├── EngineUnreachableError    the engine never received the request: another engine may get it
    │   ├── OverloadedError           the queue is full or too slow
    │   └── GatewayStoppedError       the gateway was stopped before the answer was complete
    ├── DatabaseAwayError        503  the database is unavailable; `retry-after` says when to retry
    ├── EngineTimeoutError       504  a time limit of the engine's answer has passed
    └── DiskError                507  the data directory cannot be written

The body is OpenAI's: {"error": {"message", "type", "param", "code"}}, always with all four fields.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import orjson


class GatewayError(Exception):
    """Root of the tree. `str(error)` is a sentence for the client, without file paths, keys and tracebacks."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code

    def document(self) -> dict[str, Any]:
        """Return the error as a JSON document in OpenAI's shape."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """Return `document` as JSON bytes."""
        return orjson.dumps(self.document())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return extra response headers, such as `retry-after`."""
        return []


class InvalidRequestError(GatewayError):
    """The request is malformed; `param` names the invalid field."""

    status = 400
    type = "invalid_request_error"


class PoisonRequestError(InvalidRequestError):
    """The same request was running when an engine died, so it is rejected for a while."""

    code = "suspect_request"

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            "The same request was running when an engine died, so it is rejected for another "
            f"{max(1, round(wait_s))} s to protect the engine; change it, or ask the operator to check the engine log."
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-should-retry", b"false")]


class BadFramingError(InvalidRequestError):
    """The request is not well-formed HTTP/1.1, or its length or target is ambiguous."""

    code = "bad_framing"


class AuthenticationError(GatewayError):
    """No API key, or one that is unknown, expired or revoked."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class MissingScopeError(GatewayError):
    """The key is valid but lacks the required scope."""

    status = 403
    type = "invalid_request_error"
    code = "missing_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"You have insufficient permissions for this operation: it needs a key with the scope '{scope}'; ask the "
            "operator for one."
        )


class ModelNotFoundError(GatewayError):
    """No such model, or this key may not use it."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model[:100]}` does not exist or you do not have access to it.")


class UnknownUrlError(GatewayError):
    """No such path; `nearest` is the existing path that was probably meant."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"

    def __init__(self, method: str, path: str, nearest: str | None = None) -> None:
        hint = "" if nearest is None else f" Try '{nearest}'."
        super().__init__(f"There is no {method} {path[:200]!r} here.{hint}")


class NotFoundError(GatewayError):
    """No such adapter, version or other resource."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowedError(GatewayError):
    """The path exists but not for this method; the `allow` header lists its methods."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self._allowed = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not allowed on {path[:200]!r}; use {self._allowed}.")

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", self._allowed.encode())]


class ClientTooSlowError(GatewayError):
    """The request's headers or body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class ConflictError(GatewayError):
    """The current state is not the one that the request expects; nothing was changed."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class RequestTooLargeError(GatewayError):
    """The body exceeds the limit of this server."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedEncodingError(GatewayError):
    """Unsupported content-encoding of the body; the `accept-encoding` header lists the supported ones."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"

    def __init__(self, given: str, accepted: str) -> None:
        super().__init__(
            f"The content-encoding '{given}' is not supported; use one of {accepted}, or send the body uncompressed."
        )
        self._accepted = accepted

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"accept-encoding", self._accepted.encode())]


class ExpectationError(GatewayError):
    """Unsupported `expect` header."""

    status = 417
    type = "invalid_request_error"
    code = "expectation_failed"


class HeadersTooLargeError(GatewayError):
    """The request line and headers exceed the limit of this server."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class AdapterRefusedError(GatewayError):
    """An adapter failed preflight or the engine refused it; `param` names the file, field or tensor."""

    status = 422
    type = "invalid_request_error"
    code = "adapter_refused"


class InternalError(GatewayError):
    """A defect of the gateway; the log has the traceback."""

    def __init__(self) -> None:
        super().__init__("The gateway failed on this request; its log has the details under this request id.")


class EngineFailedError(GatewayError):
    """The engine failed on the request, or its answer is invalid."""

    status = 502
    code = "engine_failed"


class EngineBrokeOffError(EngineFailedError):
    """The engine closed the connection before its answer was complete."""

    def __init__(self) -> None:
        super().__init__("The engine closed the connection before its answer was complete.")


class EngineAnswerTooLargeError(EngineFailedError):
    """The engine's answer, not streamed, exceeds `max_answer_bytes`."""

    code = "engine_answer_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"The engine's answer is larger than {max_bytes:,} bytes; request a stream, or fewer choices, "
            "log-probabilities or inputs at a time (the operator can raise max_answer_bytes)."
        )


class EngineUnavailableError(GatewayError):
    """No engine is ready; a client may retry after `retry_after_s`."""

    status = 503
    type = "service_unavailable_error"
    code = "engine_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", str(self.retry_after_s).encode())]


class AdapterGoneError(EngineUnavailableError):
    """Another gateway or an operator unloads the adapter as soon as it is loaded; the request did not run."""

    def __init__(self) -> None:
        super().__init__(
            "This adapter was unloaded from the engine each time it was loaded, by another gateway or an operator; "
            "retry. Gateways that share an engine need a --max-cpu-loras that holds the adapters of all of them.",
            retry_after_s=1,
        )


class EngineUnreachableError(EngineUnavailableError):
    """The engine never received the request, so another engine may get it."""

    def __init__(self) -> None:
        super().__init__("The engine is not reachable; it is starting or being restarted.")


class OverloadedError(EngineUnavailableError):
    """The queue is full or too slow; `retry_after_s` is when it should have drained at its current rate."""

    code = "server_is_overloaded"


class GatewayStoppedError(EngineUnavailableError):
    """The gateway was stopped, and the answer was not complete within `shutdown_timeout_s`."""

    code = "gateway_stopped"

    def __init__(self) -> None:
        super().__init__("The gateway was stopped before the answer was complete; send the request again in a moment.")


class DatabaseAwayError(GatewayError):
    """The gateway's database is unavailable; the same request may be retried."""

    status = 503
    type = "service_unavailable_error"
    code = "database_unavailable"
    retry_after_s: ClassVar[int] = 5

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % self.retry_after_s)]


class EngineTimeoutError(GatewayError):
    """A time limit of the engine's answer has passed; `code` says which."""

    status = 504
    code = "engine_timeout"


class DiskError(GatewayError):
    """The data directory cannot be written; nothing was registered."""

    status = 507
    code = "storage_failed"
