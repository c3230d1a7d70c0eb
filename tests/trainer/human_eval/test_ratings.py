"""Ratings survive whatever happens, and belong to the answers that were rated."""

from pathlib import Path

import pytest

from tests.trainer.human_eval.contests import AGAINST, ALIKE, ARM, ITEMS, compared
from trainer.errors import EvaluationError
from trainer.eval.task import read_task
from trainer.human_eval.pairs import PairwiseEval, read_pairwise_eval
from trainer.human_eval.ratings import RatingStore, read_votes


def contest_of(folder: Path, **options: object) -> PairwiseEval:
    task_file, path = compared(folder)
    return read_pairwise_eval(read_task(task_file), path, **{"arm": None, "against": None, "seed": 0, **options})  # type: ignore[arg-type]


def test_ratings_are_resumed_undone_and_cut_where_a_line_was_torn(tmp_path: Path) -> None:
    contest = contest_of(tmp_path)
    with RatingStore(contest) as ratings:
        ratings.rate("ana", 1, "arm", 10)
        ratings.rate("ana", 2, "tie", 10)
        ratings.rate("bob", 1, "against", 10)
        assert ratings.undo("ana") == 2
        assert ratings.undo("eve") is None
        with pytest.raises(EvaluationError, match="is locked by another `turntable review rate`"), RatingStore(contest):
            pass
        assert read_votes(contest) == ratings.votes(), "results can be seen while people rate"
        path = ratings.path
    with path.open("ab") as file:
        file.write(b'{"rater": "bob", "line": 2, "cho')
    with RatingStore(contest) as ratings:
        assert ratings.votes() == {"ana": {1: "arm"}, "bob": {1: "against"}}
        ratings.rate("bob", 2, "tie", 10)
    with RatingStore(contest) as ratings:
        assert ratings.of("bob") == {1: "against", 2: "tie"}


def test_ratings_of_other_answers_are_refused_and_stay(tmp_path: Path) -> None:
    contest = contest_of(tmp_path)
    with RatingStore(contest) as ratings:
        ratings.rate("ana", 1, "arm", 10)
        path = ratings.path
    answers = contest.report.with_name("answers.jsonl")
    answers.write_text(answers.read_text().replace("worse 5", "as good 5"), encoding="utf-8")
    changed = read_pairwise_eval(read_task(tmp_path / "task.toml"), contest.report, arm=None, against=None, seed=0)
    with pytest.raises(EvaluationError, match="has ratings of other answers"), RatingStore(changed):
        pass
    assert '"choice": "arm"' in path.read_text()


def test_sides_and_order_are_drawn_for_each_rater_and_stay(tmp_path: Path) -> None:
    contest = contest_of(tmp_path)
    lines = {pair.item.line for pair in contest.pairs}
    assert lines == set(range(1, ITEMS + 1)) - {ALIKE}
    assert contest.identical == (ALIKE,)
    turned = {rater: [contest.is_swapped(rater, line) for line in sorted(lines)] for rater in ("ana", "bob")}
    assert turned["ana"] != turned["bob"]
    assert 0 < sum(turned["ana"]) < len(lines)
    assert contest.order("ana") != contest.order("bob")
    assert set(contest.order("ana")) == lines
    again = contest_of(tmp_path)
    assert [again.is_swapped("ana", line) for line in sorted(lines)] == turned["ana"]
    many = [contest.is_swapped(f"rater {number}", 1) for number in range(400)]
    assert 150 < sum(many) < 250


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"arm": "nobody"}, "has no arm nobody"),
        ({"arm": AGAINST}, "cannot be compared with itself"),
        ({"against": ARM}, "cannot be compared with itself"),
    ],
)
def test_a_contest_that_cannot_be_held_is_one_sentence(options: dict[str, str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        contest_of(tmp_path, **options)


def test_a_task_that_changed_since_it_was_compared_is_refused(tmp_path: Path) -> None:
    task_file, path = compared(tmp_path)
    task_file.write_text(task_file.read_text() + "max_tokens = 7\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="another state of the task"):
        read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
