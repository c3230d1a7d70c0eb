"""OpenTelemetry tracing, opt-in: one span per finished request, following the GenAI semantic conventions.

The conventions are not stable yet (semantic-conventions-genai, July 2026), so only this file uses them. Spans never
contain prompts or answers.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from gateway.clock import now_us
from gateway.core import RequestContext
from gateway.metering import LedgerEntry

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/embeddings": "embeddings",
}


class TelemetryMissingError(Exception):
    """The setting `otlp_endpoint` needs OpenTelemetry, which is not installed."""


class Telemetry:
    """Exports spans to an OTLP/HTTP collector, in batches in the background.

    Raises `TelemetryMissingError` when the extra `otel` is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            resources = importlib.import_module("opentelemetry.sdk.resources")
            trace = importlib.import_module("opentelemetry.sdk.trace")
            export = importlib.import_module("opentelemetry.sdk.trace.export")
            otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            self._propagation = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
            self._api = importlib.import_module("opentelemetry.trace")
        except ImportError as error:
            raise TelemetryMissingError(
                "otlp_endpoint is set, but OpenTelemetry is not installed; install the extra otel or unset it."
            ) from error
        resource = resources.Resource.create({"service.name": "turntable"})
        self._provider = trace.TracerProvider(resource=resource)
        exporter = otlp.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("turntable")

    def record(self, request_context: RequestContext, entry: LedgerEntry) -> None:
        """Record the span of a finished request; its parent is the client's `traceparent`, if it sent one."""
        operation = _OPERATIONS.get(request_context.api.path)
        if operation is None:
            return
        span = self._tracer.start_span(
            f"{operation} {request_context.target.label}",
            context=self._propagation.TraceContextTextMapPropagator().extract(request_context.trace_headers),
            kind=self._api.SpanKind.SERVER,
            start_time=entry.opened_us * 1000,
            attributes=_attributes(operation, request_context, entry),
        )
        if entry.status >= 400:
            span.set_attribute("error.type", str(entry.status))
            span.set_status(self._api.Status(self._api.StatusCode.ERROR))
        span.end(end_time=now_us() * 1000)

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def _attributes(operation: str, request_context: RequestContext, entry: LedgerEntry) -> Mapping[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": request_context.target.label,
        "gen_ai.response.model": request_context.target.engine_model,
        "gen_ai.usage.input_tokens": entry.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.usage.completion_tokens,
        "turntable.request_id": entry.request_id,
        "turntable.engine": entry.engine or "",
        "turntable.finish": str(entry.finish),
    }
    if entry.ttft_us is not None and entry.stream:
        attributes["gen_ai.server.time_to_first_token"] = entry.ttft_us / 1e6
    return attributes
