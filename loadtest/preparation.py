"""Before the clock starts: does the server serve what will be asked, and has every model been warmed up?"""

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import quote

import httpx

from loadtest.client import ChatClient
from loadtest.errors import ServerError
from loadtest.records import RequestRecord
from loadtest.settings import RunSettings
from loadtest.workload import RequestSpec, built_in_prompts

WARMUPS_AT_A_TIME = 4
WARMUP_TOKENS = 8


async def check_server(client: ChatClient, settings: RunSettings, models: Sequence[str]) -> None:
    """Raise ServerError unless the server answers and serves these models."""
    models_url = f"{settings.base_url}/v1/models"
    try:
        status, body = await client.get(models_url)
        if status in (401, 403):
            raise ServerError(f"{settings.base_url} refused the key ({status}): pass --key or set TURNTABLE_API_KEY.")
        served = _model_names(body)
        if status != 200 or served is None:
            raise ServerError(f"{models_url} answered {status} without a model list: check --url.")
        for model in models:
            # A server may accept more names than it lists, such as `name@v3`.
            if model not in served and (await client.get(f"{models_url}/{quote(model, safe='')}"))[0] != 200:
                raise ServerError(f"{settings.base_url} does not serve {model!r}; it serves {', '.join(served)}.")
    except (httpx.HTTPError, TimeoutError) as error:
        message = (
            f"{settings.base_url}, {settings.url_from}, cannot be reached ({_reason(error)}): start the server, or "
            "name another with --url or TURNTABLE_GATEWAY_URL."
        )
        raise ServerError(message) from error


async def server_version(client: ChatClient, settings: RunSettings) -> str | None:
    """What the server says that it is, where it does, as vLLM: its version."""
    try:
        _, body = await client.get(f"{settings.base_url}/version")
    except (httpx.HTTPError, TimeoutError):
        return None
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None


async def warm_up(
    client: ChatClient, models: Sequence[str], requests: int, clock: Callable[[], float]
) -> tuple[list[str], dict[str, str]]:
    """Ask every model `requests` times; those that answered, and the error of those that did not."""
    failures: dict[str, str] = {}
    room = asyncio.Semaphore(WARMUPS_AT_A_TIME)

    async def warm(model: str) -> None:
        async with room:
            for number in range(requests):
                now_s = clock()
                record = RequestRecord(number, model, now_s, now_s)
                await client.chat(RequestSpec(number, model, built_in_prompts()[0], WARMUP_TOKENS), record)
                if record.error:
                    failures[model] = f"{record.error}: {record.message}"

    if requests:
        async with asyncio.TaskGroup() as group:
            for model in models:
                group.create_task(warm(model))
    return [model for model in models if requests and model not in failures], failures


def _reason(error: httpx.HTTPError | TimeoutError) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "no answer in time"
    # httpx has no class of its own for a certificate that it does not trust.
    if isinstance(error, httpx.ConnectError) and "SSL" not in str(error):
        return "connection refused or name unknown"
    return str(error)


def _model_names(body: object) -> list[str] | None:
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]
