"""Every error of the FastAPI part in OpenAI's shape.

The path that a client probably meant: the usual slips with a base URL, told in the 404.
"""

import logging
import re
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gateway.database import AWAY, away_error
from gateway.errors import GatewayError, InternalError, InvalidRequestError, MethodNotAllowedError, UnknownUrlError
from gateway.inference.formats import APIS

_SLASHES = re.compile(r"/{2,}")


def nearest_path(path: str, exists: Callable[[str], bool]) -> str | None:
    """A path that exists and differs only by slashes, or by a `/v1` that is missing, doubled or behind something."""
    if len(path) > 200:
        return None
    plain = "/" + _SLASHES.sub("/", path).strip("/")
    tail = plain.rpartition("/v1/")[2].removeprefix("/")
    for candidate in (plain, f"/v1{plain}", f"/v1/{tail}", f"/v1/{tail.lower()}"):
        if candidate != path and (candidate in APIS or exists(candidate)):
            return candidate
    return None


def _routes_of(request: Request, path: str) -> list[BaseRoute]:
    """The routes that serve a path by any method."""
    scope = {**request.scope, "path": path}
    return [route for route in request.app.routes if route.matches(scope)[0] is not Match.NONE]


def _with_head(methods: set[str]) -> set[str]:
    return methods | {"HEAD"} if "GET" in methods else methods


log = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Every error of the FastAPI part in OpenAI's shape."""

    def render(_request: Request, error: Exception) -> Response:
        shown = error if isinstance(error, GatewayError) else InternalError()
        headers = {name.decode(): value.decode() for name, value in shown.headers()}
        return Response(shown.body(), shown.status, headers, "application/json")

    def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]  # not of request.url, into which the host header is mixed
        if error.status_code == MethodNotAllowedError.status:
            allowed = set().union(*(getattr(route, "methods", None) or () for route in _routes_of(request, path)))
            return render(request, MethodNotAllowedError(request.method, path, _with_head(allowed)))
        near = nearest_path(path, lambda other: bool(_routes_of(request, other)))
        return render(request, UnknownUrlError(request.method, path, near))

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = str(first["loc"][-1])
        return render(request, InvalidRequestError(f"'{field}': {first['msg']}.", param=field))

    def database_away(request: Request, error: Exception) -> Response:
        log.warning("%s: the database does not answer (%s)", request.method, str(error).partition("\n")[0])
        return render(request, away_error(error))

    for away in AWAY:
        app.add_exception_handler(away, database_away)
    app.add_exception_handler(GatewayError, render)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, render)
