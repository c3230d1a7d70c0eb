"""Error handlers of the FastAPI app: every error in OpenAI's shape, and in a 404 the path that was probably meant."""

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

log = logging.getLogger(__name__)
_SLASHES = re.compile(r"/{2,}")


def nearest_path(path: str, exists: Callable[[str], bool]) -> str | None:
    """Find an existing path that differs by slashes only, or by a `/v1` that is missing, doubled or misplaced."""
    if len(path) > 200:
        return None
    plain = "/" + _SLASHES.sub("/", path).strip("/")
    tail = plain.rpartition("/v1/")[2].removeprefix("/")
    for candidate in (plain, f"/v1{plain}", f"/v1/{tail}", f"/v1/{tail.lower()}"):
        if candidate != path and (candidate in APIS or exists(candidate)):
            return candidate
    return None


def _routes_of(request: Request, path: str) -> list[BaseRoute]:
    """Find the routes of a path, for any method."""
    scope = {**request.scope, "path": path}
    return [route for route in request.app.routes if route.matches(scope)[0] is not Match.NONE]


def _with_head(methods: set[str]) -> set[str]:
    return methods | {"HEAD"} if "GET" in methods else methods


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers."""

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
