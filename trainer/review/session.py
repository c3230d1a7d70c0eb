"""What the page is told and what it may say: the next item of a rater, a rating, an undo. No arm is ever named here."""

import re
from collections.abc import Mapping
from typing import Any

from trainer.review.contest import Contest
from trainer.review.ratings import Choice, Ratings

_RATER = re.compile(r"[\w .-]{1,40}")
_LONGEST_LOOK_MS = 24 * 3600 * 1000


class BadRequestError(Exception):
    """What the page sent cannot be taken; the message says why."""


class Session:
    """Answers the page's three questions."""

    def __init__(self, contest: Contest, ratings: Ratings, *, show_expected: bool) -> None:
        self._contest = contest
        self._ratings = ratings
        self._show_expected = show_expected

    def next(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The first item that the rater has not rated, and how far they are."""
        return self._state(_rater(said))

    def rate(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a rating of the item that the rater sees, and go on."""
        rater, line, side = _rater(said), said.get("item"), said.get("choice")
        if side not in ("left", "right", "tie"):
            raise BadRequestError("choice is left, right or tie")
        if not isinstance(line, int) or line != self._current(rater):
            raise BadRequestError("that is not the item on the screen; load the page again")
        choice: Choice = "tie"
        if side != "tie":
            choice = "arm" if (side == "right") == self._contest.is_turned(rater, line) else "against"
        self._ratings.rate(rater, line, choice, _took_ms(said))
        return self._state(rater)

    def undo(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Take the rater's last rating back and show its item again."""
        rater = _rater(said)
        self._ratings.undo(rater)
        return self._state(rater)

    def _current(self, rater: str) -> int | None:
        chosen = self._ratings.of(rater)
        return next((line for line in self._contest.order(rater) if line not in chosen), None)

    def _state(self, rater: str) -> dict[str, Any]:
        line = self._current(rater)
        done = len(self._ratings.of(rater))
        state: dict[str, Any] = {"done": done, "total": len(self._contest.pairs), "item": None}
        if line is None:
            return state
        pair = self._contest.by_line[line]
        sides = (pair.theirs, pair.mine) if self._contest.is_turned(rater, line) else (pair.mine, pair.theirs)
        messages = [{"role": message["role"], "content": message.get("content") or ""} for message in pair.item.asked]
        shown = {"item": line, "messages": messages, "left": sides[0], "right": sides[1]}
        return state | {"item": shown | ({"expected": pair.item.expected} if self._show_expected else {})}


def _rater(said: Mapping[str, Any]) -> str:
    name = said.get("rater")
    if not isinstance(name, str) or not _RATER.fullmatch(name.strip()):
        raise BadRequestError("a rater's name has 1 to 40 letters, digits, spaces, dots or dashes")
    return name.strip()


def _took_ms(said: Mapping[str, Any]) -> int:
    took = said.get("took_ms")
    return min(max(int(took), 0), _LONGEST_LOOK_MS) if isinstance(took, int | float) else 0
