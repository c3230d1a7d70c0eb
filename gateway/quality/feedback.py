"""Feedback: clients' ratings of answers, and training examples made of it. Content is stored only if a client sends it.

Examples are chat rows with the expected answer, or preference pairs of expected and given answer, in the formats that
`turntable data check` and the trainer read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Engine,
    Float,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    or_,
    select,
)

from adapters.audit import write_entry
from gateway.auth import Caller
from gateway.clock import now_us
from gateway.database import upsert
from gateway.errors import NotFoundError
from gateway.metering import usage_ledger

feedback = Table(
    "feedback",
    MetaData(),
    Column("request_id", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("adapter", String(64), index=True),
    Column("digest", String(64)),
    Column("rating", Float, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("comment", Text),
    Column("expected", Text),
    Column("messages", JSON(none_as_null=True)),
    Column("at_us", BigInteger, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class Feedback:
    """A client's feedback on one of its requests: a rating from -1 to 1, and optional content.

    `messages` is the conversation, optionally with the given answer as its last message; `expected` is the answer that
    would have been right.
    """

    request_id: str
    rating: float
    tags: tuple[str, ...] = ()
    comment: str | None = None
    expected: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None


class FeedbackStore:
    """Stores feedback by request and key; methods block. `flush` folds pending rows into the ledger."""

    def __init__(self, database: Engine, flush: Callable[[], object]) -> None:
        self._database = database
        self._flush = flush

    def store(self, given: Feedback, caller: Caller) -> dict[str, Any]:
        """Store feedback on a request of the caller's own tenant, replacing earlier feedback of the same key.

        Raises `NotFoundError` when the tenant has no such request.
        """
        request = self._request(given.request_id, caller.tenant)
        if request is None:
            self._flush()
            request = self._request(given.request_id, caller.tenant)
        if request is None:
            raise NotFoundError(
                f"There is no request '{given.request_id[:100]}' of yours; send the x-request-id of its answer."
            )
        row = {
            "request_id": request["request_id"],
            "key_id": caller.key_id,
            "tenant": caller.tenant,
            "adapter": request["adapter"],
            "digest": request["digest"],
            "rating": given.rating,
            "tags": list(given.tags),
            "comment": given.comment,
            "expected": given.expected,
            "messages": None if given.messages is None else [dict(message) for message in given.messages],
            "at_us": now_us(),
        }
        with self._database.begin() as connection:
            connection.execute(upsert(connection.dialect.name, feedback, replace=row), row)
        return row

    def rows(
        self, *, adapter: str | None = None, tenant: str | None = None, since_us: int = 0, limit: int = 1_000
    ) -> list[dict[str, Any]]:
        """Return feedback, newest first."""
        query = select(feedback).where(feedback.c.at_us >= since_us).order_by(feedback.c.at_us.desc()).limit(limit)
        for column, value in ((feedback.c.adapter, adapter), (feedback.c.tenant, tenant)):
            if value is not None:
                query = query.where(column == value)
        with self._database.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def count(self, adapter: str, since_us: int) -> tuple[int, int]:
        """Count an adapter's feedback since then, and how much of it has a negative rating."""
        bad = func.count().filter(feedback.c.rating < 0)
        query = select(func.count(), bad).where(feedback.c.adapter == adapter, feedback.c.at_us >= since_us)
        with self._database.connect() as connection:
            found = connection.execute(query).one()
        return int(found[0]), int(found[1])

    def erase_tenant(self, tenant: str, *, actor: str) -> int:
        """Delete all feedback of a tenant and write it to the audit log; returns how many rows."""
        with self._database.begin() as connection:
            deleted = connection.execute(delete(feedback).where(feedback.c.tenant == tenant)).rowcount
            if deleted:
                write_entry(connection, actor, "forget_feedback", f"tenant:{tenant}", {"deleted": deleted})
        return deleted

    def _request(self, request_id: str, tenant: str) -> dict[str, Any] | None:
        """Find the newest request of a tenant by our id or the client's own."""
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


def chat_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a chat example for each feedback with a conversation and an expected answer."""
    for row in rows:
        if row["messages"] and row["expected"]:
            yield {"messages": [*_prompt(row["messages"]), _answer(row["expected"])]}


def pair_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a preference pair for each feedback whose given and expected answers differ."""
    for row in rows:
        given = _given(row["messages"] or [])
        if given is not None and row["expected"] and row["expected"] != given:
            yield {
                "input": {"messages": _prompt(row["messages"])},
                "preferred_output": [_answer(row["expected"])],
                "non_preferred_output": [_answer(given)],
            }


def _given(messages: list[dict[str, str]]) -> str | None:
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None


def _prompt(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Return the conversation up to the answer; the assistant's earlier turns get weight 0 in training."""
    prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in prompt]


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
