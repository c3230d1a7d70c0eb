"""Chat and text completions of the mock engine: request checks, answers at the chosen pace, injected faults.

Text completions are not streamed and carry log-probabilities when asked for. An adapter's log-probabilities differ from
the base model's, unless the adapter is in `MockEngine.inert`: a load that the engine accepts and that changes nothing.
"""

from typing import Any

import orjson

from loadtest.mock_engine.engine import Fault, MockEngine, MockUsage
from loadtest.mock_engine.exchange import AbortedError, MockExchange, RejectedError
from loadtest.mock_engine.wire import DONE, FINGERPRINT, Reply, error_body, error_event

EVENT_STREAM = b"text/event-stream; charset=utf-8"
LEAKED_PATH = "/srv/models/base/model-00001-of-00002.safetensors"
"""What the 500 leaks, for callers to prove that they do not pass it on."""
SLOWNESS = 10

_MID_STREAM = {Fault.DROP_MID_STREAM, Fault.HANG_MID_STREAM, Fault.ERROR_MID_STREAM}
_OF_BASE, _OF_ADAPTER = -0.5, -0.75


async def chat(exchange: MockExchange) -> None:
    """Answer one chat request and count how it ended."""
    engine = exchange.engine
    body = await exchange.json_body()
    engine.received.append(body)
    engine.headers.append(exchange.headers)
    _check(engine, body)
    fault = _fault(engine, body)
    try:
        await exchange.unless_gone(_answer(exchange, body, fault))
    except AbortedError:
        engine.aborted += 1
    else:
        engine.finished += 1


def _check(engine: MockEngine, body: dict[str, Any]) -> None:
    if not isinstance(body.get("messages"), list):
        raise RejectedError(400, "Bad Request", "1 validation error:\n  messages: Field required", "body.messages")
    if body.get("stream_options") and not body.get("stream"):
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise RejectedError(400, "BadRequestError", message, "stream_options")
    model = body.setdefault("model", engine.settings.served_model_name)
    if not engine.knows(model):
        valid = f"Valid aliases: {engine.settings.served_model_name}."
        raise RejectedError(404, "NotFoundError", f"The model `{model}` does not exist. {valid}", "model")
    if not body["messages"]:
        message = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise RejectedError(400, "BadRequestError", message)
    limit = body.get("max_tokens")
    if limit is not None and limit < 1:
        message = f"max_tokens must be at least 1, got {limit}. (parameter=max_tokens, value={limit})"
        raise RejectedError(400, "BadRequestError", message, "max_tokens")


def _fault(engine: MockEngine, body: dict[str, Any]) -> Fault | None:
    name = body.get("mock_fault") or engine.faults.get(body["model"])
    try:
        return Fault(name) if name else engine.next_fault()
    except ValueError:
        message = f"mock_fault must be one of {', '.join(Fault)}, not {name!r}"
        raise RejectedError(400, "BadRequestError", message, "mock_fault") from None


async def _answer(exchange: MockExchange, body: dict[str, Any], fault: Fault | None) -> None:
    match fault:
        case Fault.DROP:
            await exchange.drop()
        case Fault.HANG:
            await exchange.hang()
        case Fault.ERROR_500:
            message = f"Error while reading {LEAKED_PATH}: Input/output error"
            await exchange.answer(500, error_body(500, "InternalServerError", message))
            return
    engine, settings = exchange.engine, exchange.engine.settings
    slowness = SLOWNESS if fault is Fault.SLOW else 1
    ttft_ms, itl_ms = settings.ttft_ms * slowness, settings.itl_ms * slowness
    reply = Reply.of(body, settings.tokens, overclaim=fault is Fault.WRONG_USAGE)
    async with engine.running_request(reply.model):
        with engine.working(exchange.request_id) as work:
            await engine.pause(ttft_ms)
            engine.count(work, reply.prompt_tokens, 1)
            if not body.get("stream"):
                await engine.generate(work, reply.tokens - 1, itl_ms)
                await exchange.answer(200, reply.body())
                return
            await exchange.start(200, EVENT_STREAM)
            await _stream(exchange, reply, body.get("stream_options") or {}, itl_ms, fault, work)


async def _stream(
    exchange: MockExchange, reply: Reply, options: dict[str, Any], itl_ms: float, fault: Fault | None, work: MockUsage
) -> None:
    include_usage = bool(options.get("include_usage"))
    continuous = include_usage and bool(options.get("continuous_usage_stats"))
    events = [reply.opening(continuous=continuous)]
    for index, event in enumerate(reply.words(include_usage=include_usage, continuous=continuous)):
        if index and (itl_ms or not exchange.engine.settings.coalesce):
            await exchange.write(b"".join(events))
            events.clear()
            await exchange.engine.pause(itl_ms)
        if index == reply.tokens // 2 and fault in _MID_STREAM:
            await exchange.write(b"".join(events))
            events.clear()
            await _break(exchange, fault)
            return
        if index:
            exchange.engine.count(work, 0, 1)
        events.append(event)
    usage = [reply.closing_usage()] if include_usage else []
    await exchange.write(b"".join([*events, *usage, DONE]), more=False)


async def _break(exchange: MockExchange, fault: Fault | None) -> None:
    match fault:
        case Fault.DROP_MID_STREAM:
            await exchange.drop()
        case Fault.HANG_MID_STREAM:
            await exchange.hang()
        case Fault.ERROR_MID_STREAM:
            failure = error_event("The engine failed while it generated this answer.")
            await exchange.write(failure + DONE, more=False)


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
