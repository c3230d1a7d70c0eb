"""Every field of every API with every odd value, over a mock engine: answered or refused, and never a failure."""

import asyncio
from collections import Counter

import aiohttp

from tests.field_table import combinations
from tests.gateway.conftest import KEY, Attached

_AT_A_TIME = 16
# The mock engine streams no completions: it answers as no engine should, and is rightly said to have failed.
_ENGINE_AT_FAULT = ("/v1/completions", "stream", "true")


async def _send_all(url: str) -> list[tuple[int, str, str, str]]:
    waiting, answers = combinations(), []

    async def send(client: aiohttp.ClientSession) -> None:
        for path, field, name, body in waiting:
            async with client.post(url + path, data=body) as response:
                text = await response.text()
                is_failed = '"code":"engine_failed"' in text or '"type":"server_error"' in text
                answers.append((599 if is_failed else response.status, path, field, name))

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as client:
        await asyncio.gather(*(send(client) for _ in range(_AT_A_TIME)))
    return answers


def test_no_value_of_any_field_makes_a_server_error(attached: Attached) -> None:
    answers = asyncio.run(_send_all(attached.url))
    assert [answer for answer in answers if answer[0] >= 500 and answer[1:] != _ENGINE_AT_FAULT] == []
    counted = Counter(status for status, *_ in answers)
    assert len(answers) > 3_900
    assert counted[200] > 300, "the mock engine took part"
