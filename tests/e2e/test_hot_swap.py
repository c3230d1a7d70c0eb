"""Promotions under load on the real engine: no failed request, no answer from two versions, no stale cache.

Whose weights answered is told by log-probabilities, not by status codes: each answer is compared, token by token, with
what every version says by its exact ref when nothing else runs.
"""

import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.engines.effect_probe import largest_change
from tests.conftest import Served
from tests.e2e.answers import DISTINCT, Answer, ask, nearest
from tests.e2e.inference_requests import ASK

PROMOTIONS, CLIENTS = 60, 4


@pytest.fixture(scope="module")
def references(served: Served, make_adapter: Callable[[int], Path]) -> dict[str, Answer]:
    """What each of three versions says, by the engine's name of it; the first one is live."""
    for seed in (61, 62, 63):
        added = served.turntable("adapters", "add", "swapped", make_adapter(seed), "--json")
        assert added.returncode == 0, added.stderr
    assert served.turntable("adapters", "promote", "swapped", "v1").returncode == 0
    known = dict(ask(served, f"swapped@v{number}") for number in (1, 2, 3))
    for one, other in itertools.combinations(known.values(), 2):
        assert largest_change(one, other) > DISTINCT, "the versions cannot be told apart"
    return known


def test_promotions_under_load_fail_nobody_and_mix_nothing(served: Served, references: dict[str, Answer]) -> None:
    over = threading.Event()

    def keep_asking() -> list[tuple[str, Answer]]:
        answers = []
        while not over.is_set():
            answers.append(ask(served, "swapped"))
        return answers

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(keep_asking) for _ in range(CLIENTS)]
        try:
            for number, expected in zip(range(PROMOTIONS), itertools.cycle((2, 3, 1)), strict=False):
                body = {"version": expected, "expect_live": (1, 2, 3)[number % 3]}
                promoted = served.http.post("/admin/v1/adapters/swapped/promote", json=body)
                assert promoted.status_code == 200, promoted.text
                named, answer = ask(served, "swapped")
                assert named == f"swapped@{promoted.json()['digest'][:12]}", "a new request went to the old version"
                assert nearest(answer, references) == named
        finally:
            over.set()
        answers = [answer for client in clients for answer in client.result()]
    assert len(answers) >= PROMOTIONS // 2
    assert {named for named, _ in answers} == references.keys()
    assert not [named for named, answer in answers if nearest(answer, references) != named]


def test_a_retired_version_is_gone_from_the_engine_and_from_the_disk(
    served: Served, references: dict[str, Answer]
) -> None:
    assert served.turntable("adapters", "promote", "swapped", "v1").returncode == 0
    named, _ = ask(served, "swapped@v3")
    live = served.turntable("adapters", "retire", "swapped", "v1")
    assert (live.returncode, "takes traffic" in live.stderr) == (2, True)
    retired = json.loads(served.turntable("adapters", "retire", "swapped", "v3", "--json").stdout)
    assert (retired["state"], retired["files"]) == ("retired", "released")
    assert [engine["left"] for engine in retired["engines"]] == ["removed"]
    (engine,) = served.http.get("/admin/v1/engines").json()["data"]
    assert named not in engine["resident"]
    assert not (served.data_dir / "adapters" / retired["digest"]).exists()
    refused = served.http.post("/v1/chat/completions", json={"model": "swapped@v3", "messages": ASK})
    assert refused.status_code == 404
    verified = served.turntable("adapters", "verify", "swapped", "v1")
    assert (verified.returncode, "largest_delta" in verified.stdout) == (0, True), verified.stderr
