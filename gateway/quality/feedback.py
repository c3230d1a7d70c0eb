"""Feedback: what a client says of an answer that it got; content is kept only when the client sends it.

From feedback to the next round's data: chat rows with the answer that was expected, and pairs of a better and a
worse answer, both in the formats that `turntable data check` and the trainer read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, or_, select

from adapters.audit import write_entry
from gateway.auth import Caller
from gateway.clock import now_us
from gateway.database import upsert
from gateway.errors import NotFoundError
from gateway.metering import usage_ledger
from gateway.quality.tables import feedback


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a client says of one of its requests: a rating from -1 to 1, and content if it chose to send some.

    `messages` is the conversation, with the answer that was given as its last message if the client likes; `expected`
    is the answer that would have been right.
    """

    request_id: str
    rating: float
    tags: tuple[str, ...] = ()
    comment: str | None = None
    expected: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None


class FeedbackStore:
    """Keeps feedback by request and key; methods block on the database. `flush` brings the ledger up to date first."""

    def __init__(self, database: Engine, flush: Callable[[], object]) -> None:
        self._database = database
        self._flush = flush

    def keep(self, said: Feedback, caller: Caller) -> dict[str, Any]:
        """Keep feedback on a request of the caller's own tenant, in place of what the same key said before.

        Raises `NotFoundError` when the tenant has no such request.
        """
        asked = self._request(said.request_id, caller.tenant)
        if asked is None:
            self._flush()
            asked = self._request(said.request_id, caller.tenant)
        if asked is None:
            raise NotFoundError(
                f"There is no request '{said.request_id[:100]}' of yours; send the x-request-id of its answer."
            )
        row = {
            "request_id": asked["request_id"],
            "key_id": caller.key_id,
            "tenant": caller.tenant,
            "adapter": asked["adapter"],
            "digest": asked["digest"],
            "rating": said.rating,
            "tags": list(said.tags),
            "comment": said.comment,
            "expected": said.expected,
            "messages": None if said.messages is None else [dict(message) for message in said.messages],
            "at_us": now_us(),
        }
        with self._database.begin() as connection:
            connection.execute(upsert(connection.dialect.name, feedback, replace=row), row)
        return row

    def rows(
        self, *, adapter: str | None = None, tenant: str | None = None, since_us: int = 0, limit: int = 1_000
    ) -> list[dict[str, Any]]:
        """The newest feedback first."""
        query = select(feedback).where(feedback.c.at_us >= since_us).order_by(feedback.c.at_us.desc()).limit(limit)
        for column, value in ((feedback.c.adapter, adapter), (feedback.c.tenant, tenant)):
            if value is not None:
                query = query.where(column == value)
        with self._database.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def count(self, adapter: str, since_us: int) -> tuple[int, int]:
        """How many pieces of feedback an adapter got since then, and how many of them were bad."""
        bad = func.count().filter(feedback.c.rating < 0)
        query = select(func.count(), bad).where(feedback.c.adapter == adapter, feedback.c.at_us >= since_us)
        with self._database.connect() as connection:
            found = connection.execute(query).one()
        return int(found[0]), int(found[1])

    def forget(self, tenant: str, *, actor: str) -> int:
        """Delete all feedback of a tenant, and say so on the audit log; returns how much there was."""
        with self._database.begin() as connection:
            deleted = connection.execute(delete(feedback).where(feedback.c.tenant == tenant)).rowcount
            if deleted:
                write_entry(connection, actor, "forget_feedback", f"tenant:{tenant}", {"deleted": deleted})
        return deleted

    def _request(self, request_id: str, tenant: str) -> dict[str, Any] | None:
        """The newest request of a tenant by our id or by the client's own."""
        ledger = usage_ledger.c
        query = (
            select(ledger.request_id, ledger.adapter, ledger.digest)
            .where(or_(ledger.request_id == request_id, ledger.client_request_id == request_id))
            .where(ledger.tenant == tenant)
            .order_by(ledger.opened_us.desc())
            .limit(1)
        )
        with self._database.connect() as connection:
            found = connection.execute(query).mappings().one_or_none()
        return None if found is None else dict(found)


def chat_rows(kept: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each piece of feedback that holds a conversation and the answer that was expected."""
    for one in kept:
        if one["messages"] and one["expected"]:
            yield {"messages": [*_asked(one["messages"]), _answer(one["expected"])]}


def pair_rows(kept: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One preference for each piece of feedback that also holds the answer that was given, where the two differ."""
    for one in kept:
        given = _given(one["messages"] or [])
        if given is not None and one["expected"] and one["expected"] != given:
            yield {
                "input": {"messages": _asked(one["messages"])},
                "preferred_output": [_answer(one["expected"])],
                "non_preferred_output": [_answer(given)],
            }


def _given(messages: list[dict[str, str]]) -> str | None:
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None


def _asked(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The conversation up to the answer; earlier turns of the assistant are context, not something to learn."""
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in asked]


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
