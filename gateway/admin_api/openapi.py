"""/docs and /openapi.json: every path of the gateway, inference included; the page loads nothing from elsewhere."""

import inspect
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from gateway.inference.formats import APIS, Api

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Turntable API</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
td{{padding:.3rem 1rem .3rem 0;vertical-align:top}}code{{white-space:nowrap}}</style>
<h1>Turntable API</h1><p>Keys go in <code>Authorization: Bearer tt-…</code>. The same as a document:
<a href="/openapi.json">/openapi.json</a>.</p><table>{rows}</table></html>"""
_JSON_TYPES = {str: "string", list: "array", int: "integer", dict: "object"}


def add_docs(app: FastAPI) -> None:
    """Add /docs, and the inference paths to the app's OpenAPI document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version="1", routes=app.routes)
            schema["paths"] |= {path: {"post": _operation(api)} for path, api in APIS.items()}
            app.openapi_schema = schema
        return app.openapi_schema

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """Show the API as a page."""
        rows = [
            f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(operation.get('description', ''))}"
            for path, methods in document()["paths"].items()
            for method, operation in methods.items()
        ]
        return HTMLResponse(_PAGE.format(rows="".join(rows)))

    app.openapi = document  # type: ignore[method-assign]


def _operation(api: Api) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": {"type": "string"}}
    for name, kinds in api.required.items():
        fields[name] = {"anyOf": [{"type": _JSON_TYPES[kind]} for kind in kinds]}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": True}
    return {
        "tags": ["inference"],
        "summary": api.path,
        "description": inspect.getdoc(type(api)) or "",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "The answer, as JSON or as a stream of events."}},
    }
