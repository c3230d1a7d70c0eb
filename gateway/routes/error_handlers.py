"""Every error of the FastAPI part in OpenAI's shape."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.database import AWAY, away_error
from gateway.errors import GatewayError, InternalError, InvalidRequestError, MethodNotAllowedError, UnknownUrlError

log = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Every error of the FastAPI part in OpenAI's shape."""

    def render(_request: Request, error: Exception) -> Response:
        shown = error if isinstance(error, GatewayError) else InternalError()
        headers = {name.decode(): value.decode() for name, value in shown.headers()}
        return Response(shown.body(), shown.status, headers, "application/json")

    def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = repr(request.scope["path"][:200])  # not of request.url, into which the host header is mixed
        if error.status_code == MethodNotAllowedError.status:
            return render(request, MethodNotAllowedError(f"{request.method} is not allowed on {path}."))
        return render(request, UnknownUrlError(f"There is no {request.method} {path} here."))

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
