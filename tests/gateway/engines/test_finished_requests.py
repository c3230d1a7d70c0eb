"""What our plugin keeps of requests that ended, from vLLM's own output processor: its counters' very numbers."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from gateway.core import Usage
from gateway.engines.client import EngineUsage
from gateway.engines.plugin.finished_requests import FinishedRequests


def told(ended: FinishedRequests, name: str) -> dict[str, Any]:
    request = Request({"type": "http", "query_string": f"request={name}".encode(), "headers": []})
    return dict(json.loads(bytes(asyncio.run(ended.show(request)).body)))


@pytest.mark.filterwarnings("ignore")  # of torch, while it is imported
def test_a_request_that_is_aborted_is_kept_with_what_the_counters_got() -> None:
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.metrics.stats import IterationStats, PrefillStats

    processor, stats = OutputProcessor(None, log_stats=True), IterationStats()
    ended = FinishedRequests()
    ended.attach(processor)
    params = SamplingParams(detokenize=False, output_kind=RequestOutputKind.DELTA)
    for number, external in enumerate(["chatcmpl-req_1a", "chatcmpl-req_1a", "chatcmpl-req_2b"]):
        request = EngineCoreRequest(
            request_id=f"{external}-{number}",
            prompt_token_ids=[1, 2, 3, 4],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        request.external_req_id = external
        queue = RequestOutputCollector(params.output_kind, request.request_id)
        processor.add_request(request, None, queue=queue)
    prefill = PrefillStats()
    prefill.set(num_prompt_tokens=4, num_local_cached_tokens=2, num_external_cached_tokens=0)
    for tokens, is_first in (([7, 8], True), ([9], False)):
        outputs = [
            EngineCoreOutput(f"chatcmpl-req_1a-{number}", tokens, prefill_stats=prefill if is_first else None)
            for number in (0, 1)
        ]
        processor.process_outputs(outputs, 1.0, stats)
    for external in ("chatcmpl-req_1a", "chatcmpl-req_2b"):
        processor.abort_requests([external], internal=False)
    first, second = told(ended, "req_1a"), told(ended, "req_2b")
    assert (stats.num_prompt_tokens, stats.num_generation_tokens) == (8, 6)
    assert EngineUsage.parse(first) == EngineUsage(Usage(4, 6, 2), choices=2)
    assert second["parts"] == [["chatcmpl-req_2b", 0, 0, 0]], "it had not begun, and was not counted"
    assert told(ended, "req_unknown")["parts"] == []
