"""Send requests to OpenAI-compatible endpoints, and record verdicts on the gateway.

An error that every request would meet (a rejected key, an unknown model, no connection) ends the comparison; any other
error belongs to its test example.
"""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import AdapterError
from adapters.admin_client import connect
from trainer.errors import EvaluationError
from trainer.eval.answers import Answer
from trainer.eval.report import Arm, ComparisonReport
from trainer.eval.task import EndpointTable

if TYPE_CHECKING:
    from openai import AsyncOpenAI


GATEWAY_TIMEOUT_S = 120.0
_COST_WANTED = {"x-turntable-cost": "1"}
_COST, _COST_BASIS = "x-turntable-cost-usd", "x-turntable-cost-basis"


@asynccontextmanager
async def gateway_client(gateway_url: str, key: str) -> "AsyncIterator[AsyncOpenAI]":
    """Open a client of the gateway; raises `EvaluationError` when it cannot be reached or rejects the key."""
    from openai import APIConnectionError, APIStatusError

    async with _client(f"{gateway_url.rstrip('/')}/v1", key, GATEWAY_TIMEOUT_S) as client:
        try:
            await client.models.list()
        except APIStatusError as error:
            raise EvaluationError(f"the gateway at {gateway_url} refuses the key: {error.message}") from error
        except APIConnectionError as error:
            raise EvaluationError(f"no gateway answers at {gateway_url}; start one with `turntable serve`.") from error
        yield client


@asynccontextmanager
async def endpoint_client(table: EndpointTable, gateway: "AsyncOpenAI") -> "AsyncIterator[AsyncOpenAI]":
    """Open a client of the endpoint that a table names, or of the gateway."""
    if table.base_url is None:
        yield gateway.with_options(timeout=table.timeout_s)
        return
    key = os.environ.get(table.key_env)
    if not key:
        raise EvaluationError(f"there is no key for {table.base_url}: set {table.key_env}.")
    async with _client(table.base_url, key, table.timeout_s) as client:
        yield client


def _client(base_url: str, key: str, timeout_s: float) -> "AsyncOpenAI":
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    http = DefaultAsyncHttpxClient(trust_env=False, timeout=timeout_s)
    return AsyncOpenAI(base_url=base_url, api_key=key, http_client=http)


async def complete(
    client: "AsyncOpenAI", arm: str, line: int, model: str, messages: Any, request: Mapping[str, Any]
) -> Answer:
    """Send one request; raises `EvaluationError` for an error that every request would meet."""
    from openai import APIConnectionError, APIError, APITimeoutError, AuthenticationError, NotFoundError
    from openai import PermissionDeniedError as Refused

    began = time.perf_counter()
    try:
        # The SDK does not validate extra_body, which saves a quarter of a request's time here.
        body = {"messages": messages, **request}
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=[], extra_headers=_COST_WANTED, extra_body=body
        )
        completion = raw.parse()
    except (AuthenticationError, NotFoundError, Refused) as error:
        raise EvaluationError(f"the gateway refuses model {model}: {error.message}") from error
    except APITimeoutError:
        return Answer(arm, line, error=f"no answer within {client.timeout} s")
    except APIConnectionError as error:
        return Answer(arm, line, error=f"{error.message} ({error.__cause__})")
    except APIError as error:
        return Answer(arm, line, error=error.message)
    latency_ms = (time.perf_counter() - began) * 1000
    if not completion.choices:
        return Answer(arm, line, error="the answer holds no choice")
    choice, usage = completion.choices[0], completion.usage
    details = usage.prompt_tokens_details if usage else None
    return Answer(
        arm,
        line,
        choice.message.content or "",
        choice.finish_reason,
        latency_ms,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        _nano_usd(raw.headers.get(_COST)),
        cost_basis=raw.headers.get(_COST_BASIS),
        cached_tokens=(details.cached_tokens or 0) if details else 0,
    )


def _nano_usd(header: str | None) -> int | None:
    """Parse the cost of the gateway's header; None without one."""
    try:
        return int(Decimal(header) * 10**9) if header else None
    except InvalidOperation:
        return None


def record_verdict(report: ComparisonReport, gateway_url: str, data_dir: Path) -> str:
    """Record the verdict on its version and return the version; raises `EvaluationError`."""
    arm = _subject(report)
    name, _, version = arm.model.partition("@")
    try:
        with connect(gateway_url, data_dir) as admin:
            admin.request("POST", f"/adapters/{name}/versions/{version}/verdict", json=_body(report, arm))
    except AdapterError as error:
        raise EvaluationError(f"the verdict on {arm.model} is not recorded: {error}") from error
    return arm.model


def _subject(report: ComparisonReport) -> Arm:
    if report.gate.verdict is None or report.gate.arm is None:
        raise EvaluationError(f"there is nothing to record: {report.gate.summary}")
    arm = report.arm(report.gate.arm)
    if arm.digest is None or "@v" not in arm.model:
        raise EvaluationError(
            f"which version of {arm.model} answered is not known, so its verdict is not recorded; set "
            "TURNTABLE_ADMIN_KEY and compare again."
        )
    return arm


def _body(report: ComparisonReport, arm: Arm) -> dict[str, Any]:
    return {
        "verdict": report.gate.verdict,
        "digest": arm.digest,
        "task_sha256": report.task.sha256,
        "base_sha256": report.base.base_sha256,
        "template_sha256": report.base.template_sha256,
        "complete": report.complete,
        "checks": [check.model_dump(mode="json") for check in report.gate.checks],
        "summary": report.gate.summary,
        "human": report.human,
    }
