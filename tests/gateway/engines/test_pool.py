"""Several engines behind one gateway: where requests go, and what becomes of them when an engine dies."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.gateway.engines.mock_pool import pool_of
from tests.waiting import eventually


def test_requests_at_the_same_time_are_spread_over_the_engines(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: pool.ask(f"question {n}").status_code, range(64)))
        served = [pool.engines.stats(number)["finished"] for number in range(2)]
    assert set(answers) == {200}
    assert sum(served) == 64
    assert min(served) > 10


def test_an_engine_that_cannot_be_reached_loses_no_request(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool:
        pool.engines.kill(0)
        answers = Counter(pool.ask(f"question {n}").status_code for n in range(20))
        metrics = pool.http.get("/metrics").text
        assert eventually(lambda: pool.states() == ["restarting", "ready"])
        pool.engines.restart(0)
        assert eventually(lambda: pool.states() == ["ready", "ready"])
    # The first request may meet a kept connection that died with the engine: the engine might have read it.
    assert answers[200] >= 19
    assert answers.keys() <= {200, 502}
    assert "turntable_engine_retries_total" in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_under_which_an_engine_died_is_neither_replayed_nor_taken_again(tmp_path: Path, stream: bool) -> None:
    with pool_of(2, tmp_path) as pool, ThreadPoolExecutor(1) as threads:
        poison = threads.submit(pool.ask, "poison", stream=stream, mock_fault="hang")
        assert eventually(lambda: 1 in pool.running())
        killer = pool.running().index(1)
        pool.engines.kill(killer)
        assert poison.result().status_code == 502
        assert eventually(lambda: pool.states()[killer] == "restarting")
        assert pool.running() == [0, 0]
        again = pool.ask("poison", stream=stream, mock_fault="hang")
        assert again.status_code == 400
        assert again.json()["error"]["code"] == "suspect_request"
        assert again.headers["x-should-retry"] == "false"
        assert pool.ask("harmless").status_code == 200
        pool.engines.restart(killer)
        assert eventually(lambda: pool.states() == ["ready", "ready"])
        assert pool.ask("poison", stream=stream, mock_fault="hang").status_code == 400


def test_no_engine_left_is_a_503_that_names_every_reason(tmp_path: Path) -> None:
    with pool_of(2, tmp_path) as pool:
        pool.engines.kill(0)
        pool.engines.kill(1)
        assert eventually(lambda: pool.states() == ["restarting", "restarting"])
        refused = pool.ask("anything")
        ready = pool.http.get("/ready")
    assert (refused.status_code, ready.status_code) == (503, 503)
    assert all(url in refused.json()["error"]["message"] for url in pool.engines.urls)
    assert int(refused.headers["retry-after"]) > 0
