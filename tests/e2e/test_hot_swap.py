"""Promotions under load on the real engine: no failed request, no answer from two versions, no stale cache.

Whose weights answered is told by log-probabilities, not by status codes: each answer is compared, token by token, with
what every version says by its exact ref when nothing else runs.
"""

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.engines.effect_probe import difference
from tests.conftest import Served

ASK: Any = [{"role": "user", "content": "My parcel with the desk lamp has not arrived and tracking shows nothing."}]
PROMOTIONS, CLIENTS, TOKENS = 60, 4, 16
# On average bfloat16 moves a log-probability of these versions by 0.065 from its value in fp32, so two batches lie up
# to 0.13 apart; two versions lie 1.3 apart.
SAME, OTHER = 0.2, 0.6

Answer = Sequence[Mapping[str, float]]
"""For each token the log-probabilities of the likeliest ones."""


def ask(served: Served, model: str) -> tuple[str, Answer]:
    """One streamed answer: the version that the header names, and the log-probabilities."""
    body = {"model": model, "messages": ASK, "temperature": 0, "max_tokens": TOKENS, "stream": True}
    positions: list[dict[str, float]] = []
    with served.http.stream(
        "POST", "/v1/chat/completions", json=body | {"logprobs": True, "top_logprobs": 5, "ignore_eos": True}
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                tokens = (choice.get("logprobs") or {}).get("content") or ()
                positions += [{one["token"]: one["logprob"] for one in token["top_logprobs"]} for token in tokens]
        return answer.headers["x-turntable-adapter"], positions


@pytest.fixture(scope="module")
def references(served: Served, make_adapter: Callable[[int], Path]) -> dict[str, Answer]:
    """What each of three versions says, by the engine's name of it; the first one is live."""
    for seed in (61, 62, 63):
        added = served.turntable("adapters", "add", "swapped", make_adapter(seed), "--json")
        assert added.returncode == 0, added.stderr
    assert served.turntable("adapters", "promote", "swapped", "v1").returncode == 0
    known = dict(ask(served, f"swapped@v{number}") for number in (1, 2, 3))
    for one, other in itertools.combinations(known.values(), 2):
        assert difference(one, other) > OTHER, "the versions cannot be told apart"
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
                assert difference(answer, references[named]) < SAME
        finally:
            over.set()
        answers = [answer for client in clients for answer in client.result()]
    assert len(answers) >= PROMOTIONS // 2
    assert {named for named, _ in answers} == references.keys()
    wrong = [(named, difference(answer, references[named])) for named, answer in answers]
    assert not [found for found in wrong if found[1] >= SAME]


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
