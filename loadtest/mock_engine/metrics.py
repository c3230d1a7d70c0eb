"""`GET /metrics` of the mock engine: the few of vLLM's metrics that its counters can answer, under vLLM's names."""

import json

from loadtest.mock_engine.engine import MockEngine

PROMETHEUS_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


def metrics_text(engine: MockEngine) -> bytes:
    """The metrics in Prometheus' text format."""
    labels = f'engine="0",model_name={json.dumps(engine.settings.served_model_name)}'
    rows = (
        ("vllm:num_requests_running", "gauge", "Number of requests that run", engine.running),
        ("vllm:num_requests_waiting", "gauge", "Number of requests that wait", engine.waiting),
        ("vllm:prompt_tokens_total", "counter", "Number of prompt tokens", engine.prompt_tokens),
        ("vllm:generation_tokens_total", "counter", "Number of generated tokens", engine.generation_tokens),
        ("vllm:prompt_tokens_created", "gauge", "Number of prompt tokens", engine.started_s),
    )
    lines = []
    for name, kind, help_text, value in rows:
        lines += [f"# HELP {name} {help_text}.", f"# TYPE {name} {kind}", f"{name}{{{labels}}} {float(value)}"]
    return "".join(f"{line}\n" for line in lines).encode()
