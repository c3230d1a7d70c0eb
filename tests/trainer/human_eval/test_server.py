"""The rating page's server: closed to everybody else, and silent about the arms."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.trainer.human_eval.contests import AGAINST, ARM, ITEMS, compared
from trainer.errors import EvaluationError
from trainer.eval.task import read_task
from trainer.human_eval.pairs import PairwiseEval, read_pairwise_eval
from trainer.human_eval.ratings import RatingStore
from trainer.human_eval.server import Session, serving


@dataclass(frozen=True)
class Rating:
    """A page that is being served, and what lies behind it."""

    url: str
    contest: PairwiseEval
    ratings: RatingStore

    @property
    def token(self) -> str:
        return self.url.partition("token=")[2]


@pytest.fixture
def rating(tmp_path: Path) -> Iterator[Rating]:
    task_file, path = compared(tmp_path)
    contest = read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
    with RatingStore(contest) as ratings, serving(Session(contest, ratings, show_expected=False)) as url:
        yield Rating(url, contest, ratings)


def test_a_rater_goes_through_all_items_and_no_answer_of_the_server_names_an_arm(rating: Rating) -> None:
    said: list[httpx.Response] = []
    with httpx.Client(base_url=rating.url.partition("?")[0], trust_env=False) as client:
        said.append(client.get(rating.url))
        client.headers["x-review-token"] = rating.token
        said.append(client.post("/next", json={"rater": "ana"}))
        while item := said[-1].json()["item"]:
            side = "left" if "better" in item["left"] else "right"
            assert "expected" not in item
            said.append(client.post("/rate", json={"rater": "ana", "item": item["item"], "choice": side, "took_ms": 5}))
        assert said[-1].json() == {"done": ITEMS - 1, "total": ITEMS - 1, "item": None}
        again = client.post("/undo", json={"rater": " ana "}).json()
        assert again["done"] == ITEMS - 2
        assert again["item"]["item"] == rating.contest.order("ana")[-1]
    assert set(rating.ratings.of("ana").values()) == {"arm"}
    everything = "".join(f"{reply.headers}{reply.text}" for reply in said)
    for name in (ARM, AGAINST, "kindness", "secret"):
        assert name not in everything
    policy = said[0].headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert said[0].headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"x-review-token": "guessed"}, 403),
        ({"x-review-token": "é".encode()}, 403),
        ({"host": "evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_only_the_page_of_this_machine_with_the_token_is_answered(
    headers: dict[str, str], status: int, rating: Rating
) -> None:
    given = {"x-review-token": rating.token, **headers}
    reply = httpx.post(f"{rating.url.partition('?')[0]}next", json={"rater": "a"}, headers=given, trust_env=False)
    assert reply.status_code == status
    assert httpx.get(rating.url.replace("token=", "token=x"), trust_env=False).status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("rate", b'{"rater": "a", "item": 99, "choice": "left"}', 400),
        ("rate", b'{"rater": "a", "item": 1, "choice": "arm"}', 400),
        ("next", b'{"rater": ""}', 400),
        ("next", b'{"rater": "<b>"}', 400),
        ("next", b"[]", 400),
        ("next", b'{"rater": NaN}', 400),
        ("next", b"[" * 4000, 400),
        ("next", b" " * 5000, 400),
        ("steal", b"{}", 404),
    ],
)
def test_what_the_page_would_never_send_is_refused_and_rates_nothing(
    path: str, body: bytes, status: int, rating: Rating
) -> None:
    reply = httpx.post(
        f"{rating.url.partition('?')[0]}{path}", content=body, headers={"x-review-token": rating.token}, trust_env=False
    )
    assert reply.status_code == status
    assert reply.json()["error"]
    assert rating.ratings.votes() == {}


def test_a_port_that_is_taken_is_one_sentence(rating: Rating) -> None:
    port = httpx.URL(rating.url).port
    assert port is not None
    session = Session(rating.contest, rating.ratings, show_expected=True)
    with pytest.raises(EvaluationError, match="choose another with --port"), serving(session, port):
        pass
