"""Every error an HTTP client can see, as one tree; with `gateway.quota.errors`, the only place that knows status codes.

    GatewayError
    ├── InvalidRequestError      400  the request is malformed; `param` names the field
    │   ├── PoisonRequestError  400  this very request was running when an engine died
    │   └── BadFramingError      400  the message is not plain HTTP/1.1
    ├── AuthenticationError      401  no key, or one that nobody gave out, that expired or was revoked
    ├── MissingScopeError        403  the key is good, but not for this
    ├── ModelNotFoundError       404  no such model, or not for this key (the two are never told apart)
    ├── UnknownUrlError          404  no such path
    ├── NotFoundError            404  no such adapter or version, on the admin surface
    ├── MethodNotAllowedError    405
    ├── ClientTooSlowError       408  the body did not arrive in time
    ├── ConflictError            409  the state is not the one the request expects
    ├── RequestTooLargeError     413
    ├── UnsupportedEncodingError 415  the body is compressed in a way that is not read here
    ├── ExpectationError         417  `expect` asks for something else than 100-continue
    ├── (quota.errors)           429  limits and budgets; 503 for a budget that cannot be checked
    ├── HeadersTooLargeError     431
    ├── AdapterRefusedError      422  preflight or the engine refused an adapter
    ├── InternalError            500  a defect of ours; the log has the trace
    ├── EngineFailedError        502  the engine failed on the request or answered nonsense
    │   ├── EngineBrokeOffError       its connection ended before its answer did
    │   └── EngineAnswerTooLargeError its whole answer is more than is kept in memory
    ├── EngineUnavailableError   503  no engine serves right now; `retry-after` says when to come back
    │   ├── EngineUnreachableError    the engine never accepted the request: it may go to another one
    │   └── OverloadedError           every slot is taken and the queue is full or too slow
    ├── DatabaseAwayError        503  the database does not answer, or its file is gone; `retry-after` as above
    ├── DiskError                507  the data directory cannot take it
    └── EngineTimeoutError       504

The body is OpenAI's: {"error": {"message", "type", "param", "code"}}, all four always there.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import orjson


class GatewayError(Exception):
    """Root of the tree. `str(error)` is one sentence for the client, free of paths, keys and traces."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code

    def document(self) -> dict[str, Any]:
        """The JSON document in OpenAI's shape."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """`document` as JSON bytes."""
        return orjson.dumps(self.document())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Extra response headers, such as `retry-after`."""
        return []


class InvalidRequestError(GatewayError):
    """The request cannot be understood; `param` names the field at fault."""

    status = 400
    type = "invalid_request_error"


class PoisonRequestError(InvalidRequestError):
    """This very request was running when an engine died, so it is not run again for a while."""

    code = "suspect_request"

    def __init__(self, wait_s: float) -> None:
        super().__init__(
            "This very request was running when an engine died, so it is refused for the next "
            f"{max(1, round(wait_s))} s to keep others safe; change it, or have the operator look at the engine's log."
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-should-retry", b"false")]


class BadFramingError(InvalidRequestError):
    """Where the message ends, or to whom it goes, can be read in more than one way."""

    code = "bad_framing"


class AuthenticationError(GatewayError):
    """No key, or one that nobody gave out, that expired or was revoked."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class MissingScopeError(GatewayError):
    """The key is good, but does not open this."""

    status = 403
    type = "invalid_request_error"
    code = "missing_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"You have insufficient permissions for this operation: it takes a key with the scope '{scope}'; ask the "
            "operator for one."
        )


class ModelNotFoundError(GatewayError):
    """No such model, or none that this key may use."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model[:100]}` does not exist or you do not have access to it.")


class UnknownUrlError(GatewayError):
    """No such path: only listed paths exist; `nearest` is one of them that was probably meant."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"

    def __init__(self, method: str, path: str, nearest: str | None = None) -> None:
        hint = "" if nearest is None else f" Try '{nearest}'."
        super().__init__(f"There is no {method} {path[:200]!r} here.{hint}")


class NotFoundError(GatewayError):
    """No such adapter or version."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowedError(GatewayError):
    """The path exists, the method does not; `allow` says which do."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self._allowed = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not allowed on {path[:200]!r}; use {self._allowed}.")

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", self._allowed.encode())]


class ClientTooSlowError(GatewayError):
    """The request's body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class ConflictError(GatewayError):
    """The state is not the one that the request expects; nothing was changed."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class RequestTooLargeError(GatewayError):
    """The body is larger than this server takes."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedEncodingError(GatewayError):
    """The body is compressed in a way that is not read here; `accept-encoding` says which are."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"

    def __init__(self, given: str, accepted: str) -> None:
        super().__init__(
            f"Bodies with the content-encoding '{given}' are not read here; those that are: {accepted}, and plain ones."
        )
        self._accepted = accepted

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"accept-encoding", self._accepted.encode())]


class ExpectationError(GatewayError):
    """The client waits for something that this server will never send."""

    status = 417
    type = "invalid_request_error"
    code = "expectation_failed"


class HeadersTooLargeError(GatewayError):
    """The request line and headers are larger than this server takes."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class AdapterRefusedError(GatewayError):
    """An adapter failed preflight or the engine refused it; `param` names the file, field or tensor."""

    status = 422
    type = "invalid_request_error"
    code = "adapter_refused"


class InternalError(GatewayError):
    """A defect of ours; the log has the trace."""

    def __init__(self) -> None:
        super().__init__("The gateway failed on this request; its log has the details under this request id.")


class EngineFailedError(GatewayError):
    """The engine broke off or answered what no engine should."""

    status = 502
    code = "engine_failed"


class EngineBrokeOffError(EngineFailedError):
    """The engine's connection ended before its answer did."""

    def __init__(self) -> None:
        super().__init__("The engine broke off before its answer was complete.")


class EngineAnswerTooLargeError(EngineFailedError):
    """The engine's whole answer is more than is kept in memory."""

    code = "engine_answer_too_large"

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"The engine's answer is larger than {most_bytes:,} bytes, the most that is kept of one; ask for a stream, "
            "or for fewer choices, log-probabilities or inputs at a time (the operator's setting is max_answer_bytes)."
        )


class EngineUnavailableError(GatewayError):
    """No engine serves right now; a client may retry after `retry_after_s`."""

    status = 503
    type = "service_unavailable_error"
    code = "engine_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", str(self.retry_after_s).encode())]


class AdapterGoneError(EngineUnavailableError):
    """Somebody else takes an adapter out of the engine again and again; it saw nothing of the request."""

    def __init__(self) -> None:
        super().__init__(
            "This adapter was taken out of the engine each time it was loaded, by another gateway or by hand; try "
            "again. Gateways that share an engine need room in it for the adapters of all of them (--max-cpu-loras).",
            retry_after_s=1,
        )


class EngineUnreachableError(EngineUnavailableError):
    """The engine never accepted the request, so it may be sent to another one."""

    def __init__(self) -> None:
        super().__init__("The engine is not reachable; it is being restarted or has not come up yet.")


class OverloadedError(EngineUnavailableError):
    """Every slot is taken; `retry_after_s` is when the queue should have drained at its present rate."""

    code = "server_is_overloaded"


class DatabaseAwayError(GatewayError):
    """The gateway's database cannot be used now; the same request may be sent again."""

    status = 503
    type = "service_unavailable_error"
    code = "database_unavailable"
    retry_after_s: ClassVar[int] = 5

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % self.retry_after_s)]


class EngineTimeoutError(GatewayError):
    """The engine did not answer in time; the code says which limit was passed."""

    status = 504
    code = "engine_timeout"


class DiskError(GatewayError):
    """The data directory cannot be written; nothing was registered."""

    status = 507
    code = "storage_failed"
