"""`POST /v1/completions` of the mock engine: prompts answered whole, with log-probabilities when asked for.

An adapter's log-probabilities differ from the base's, unless it is listed in `MockEngine.inert`: then it is one of
those that an engine loads and that change nothing.
"""

from typing import Any

import orjson

from loadtest.mock_engine.engine import MockEngine
from loadtest.mock_engine.exchange import MockExchange, RejectedError
from loadtest.mock_engine.wire import FINGERPRINT

_OF_BASE, _OF_ADAPTER = -0.5, -0.75


async def completions(exchange: MockExchange) -> None:
    """Answer one request; nothing is streamed."""
    engine = exchange.engine
    body = await exchange.json_body()
    model = body.setdefault("model", engine.settings.served_model_name)
    if not engine.knows(model):
        raise RejectedError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
    prompts = body.get("prompt")
    prompts = prompts if isinstance(prompts, list) else [prompts]
    tokens = int(body.get("max_tokens") or engine.settings.tokens)
    async with engine.running_request(model):
        usage = {"prompt_tokens": sum(len(str(p).split()) for p in prompts), "completion_tokens": tokens * len(prompts)}
        choices = [_choice(engine, model, index, tokens, body) for index in range(len(prompts))]
        document = {"object": "text_completion", "model": model, "choices": choices, "system_fingerprint": FINGERPRINT}
        with engine.working(exchange.request_id) as work:
            await engine.pause(engine.settings.ttft_ms + engine.settings.itl_ms * (tokens - 1))
            engine.count(work, usage["prompt_tokens"], usage["completion_tokens"])
        await exchange.answer(200, orjson.dumps(document | {"usage": usage | {"total_tokens": sum(usage.values())}}))


def _choice(engine: MockEngine, model: str, index: int, tokens: int, body: dict[str, Any]) -> dict[str, Any]:
    words = [f"w{number} " for number in range(tokens)]
    is_base = model == engine.settings.served_model_name or model.partition("@")[0] in engine.inert
    first = _OF_BASE if is_base else _OF_ADAPTER
    likely: dict[str, Any] = {
        "tokens": words,
        "token_logprobs": [first] * tokens,
        "top_logprobs": [{word: first, "other": -2.0} for word in words],
    }
    logprobs = likely if body.get("logprobs") else None
    return {"index": index, "text": "".join(words), "logprobs": logprobs, "finish_reason": "length"}
