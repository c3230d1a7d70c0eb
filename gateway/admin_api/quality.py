"""Quality API: POST /v1/feedback for applications; list, export and delete feedback, and drift, for operators."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic import BaseModel as Schema

from adapters.audit import storable
from adapters.ref import check_name
from gateway.admin_api.adapter_documents import body_of, read_body
from gateway.auth import Caller
from gateway.clock import iso, parse_us
from gateway.errors import RequestTooLargeError
from gateway.quality.feedback import Feedback, FeedbackStore, chat_rows, pair_rows
from gateway.quality.service import QualityMonitoring
from gateway.releases.errors import parse_version, translated_errors
from gateway.threads import REPORTS

MAX_BYTES = 64 << 10
_MAX_ROWS = 100_000
_Tag = Annotated[str, StringConstraints(pattern=r"^[\w.:-]{1,64}$")]
_WORDS = {"good": 1.0, "bad": -1.0}
_Kind = Literal["chat", "pairs"]
_Text = Annotated[str, StringConstraints(min_length=1), AfterValidator(storable)]


class FeedbackMessage(Schema):
    """One message of the conversation that the feedback is about."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: _Text


class FeedbackBody(Schema):
    """Feedback on an answer; its content (`comment`, `expected`, `messages`) is stored, that of requests is not.
    `messages` may end with the given answer.
    """

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    rating: Annotated[float, Field(ge=-1, le=1)]
    tags: Annotated[list[_Tag], Field(max_length=16)] = []
    comment: Annotated[_Text, Field(max_length=4_000)] | None = None
    expected: _Text | None = None
    messages: Annotated[list[FeedbackMessage], Field(min_length=1, max_length=64)] | None = None

    @field_validator("rating", mode="before")
    @classmethod
    def _in_words(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError('is true or false; write "good", "bad" or a number from -1 to 1')
        return _WORDS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.messages and not any(message.role == "user" for message in self.messages):
            raise ValueError("messages has no user message; send the conversation that was answered")
        return self

    def feedback(self) -> Feedback:
        """Return the feedback for the store."""
        messages = None if self.messages is None else [message.model_dump() for message in self.messages]
        return Feedback(self.request_id, self.rating, tuple(self.tags), self.comment, self.expected, messages)


def feedback_routes(store: FeedbackStore, inference: Any, admin: Any) -> APIRouter:
    """Build the routes; `inference` and `admin` are the dependencies that require a key of that scope."""
    routes = APIRouter(tags=["feedback"])

    @routes.post("/v1/feedback", openapi_extra=body_of(FeedbackBody))
    async def give(request: Request, caller: Annotated[Caller, Depends(inference)]) -> dict[str, Any]:
        """Rate an answer; feedback on the same request with the same key replaces the earlier one."""
        feedback = read_body(FeedbackBody, await _bounded_body(request)).feedback()
        row = await REPORTS.run(store.store, feedback, caller)
        return {"object": "feedback", **_document(row)}

    @routes.get("/admin/v1/feedback", dependencies=[Depends(admin)])
    async def list_feedback(
        adapter: str | None = None,
        tenant: str | None = None,
        since: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        """List feedback, newest first."""
        since_us = parse_us(since, "since") or 0
        rows = await REPORTS.run(store.rows, adapter=adapter, tenant=tenant, since_us=since_us, limit=limit)
        return {"object": "list", "data": [_document(row) for row in rows]}

    @routes.get("/admin/v1/feedback/rows", dependencies=[Depends(admin)])
    async def next_round(
        kind: _Kind = "chat", adapter: str | None = None, tenant: str | None = None, since: str | None = None
    ) -> dict[str, Any]:
        """Export training rows: chat rows with the expected answer, or pairs of expected and given answer."""
        since_us = parse_us(since, "since") or 0
        found = await REPORTS.run(store.rows, adapter=adapter, tenant=tenant, since_us=since_us, limit=_MAX_ROWS)
        rows = chat_rows(reversed(found)) if kind == "chat" else pair_rows(reversed(found))
        return {"object": "list", "feedback": len(found), "data": list(rows)}

    @routes.delete("/admin/v1/feedback")
    async def forget(tenant: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Delete all feedback of a tenant."""
        return {"tenant": tenant, "deleted": await REPORTS.run(store.erase_tenant, tenant, actor=caller.key_id)}

    return routes


async def _bounded_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise RequestTooLargeError(f"Feedback is limited to {MAX_BYTES} bytes; send less of the conversation.")
    return b"".join(parts)


def _document(row: dict[str, Any]) -> dict[str, Any]:
    digest = row["digest"]
    document = {name: value for name, value in row.items() if name != "at_us"}
    return document | {"digest": digest and digest[:12], "at": iso(row["at_us"], "seconds")}


def watching_routes(watching: QualityMonitoring, admin: Any) -> APIRouter:
    """Build the route; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(prefix="/admin/v1/adapters", tags=["watching"], dependencies=[Depends(admin)])

    @routes.get("/{name}/drift")
    async def drift(
        name: str, version: str | None = None, days: Annotated[int, Query(ge=1, le=400)] = 7
    ) -> dict[str, Any]:
        """Compare a version's live answers of the last `days` with its training baseline; `retrain` lists the triggers.

        The measures are length, ending, format and class mix. Without `version` it is the live version.
        """
        with translated_errors():
            number = None if version is None else parse_version(version)
            await REPORTS.run(watching.sampler.flush)
            review = await REPORTS.run(watching.reviewer.review, check_name(name), number, days=days)
            return review.document()

    return routes
