"""GET /admin/v1/adapters/{name}/drift: live answers beside those learnt from, and whether to train again."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from adapters.ref import check_name
from gateway.adapter_errors import parse_version, translated_errors
from gateway.watching.build import Watching


def watching_routes(watching: Watching, admin: Any) -> APIRouter:
    """The route; `admin` is the dependency that demands an admin key."""
    routes = APIRouter(prefix="/admin/v1/adapters", tags=["watching"], dependencies=[Depends(admin)])

    @routes.get("/{name}/drift")
    def drift(name: str, version: str | None = None, days: Annotated[int, Query(ge=1, le=400)] = 7) -> dict[str, Any]:
        """The live version's answers of the last days by length, ending, format and class mix; `retrain` says what is
        due. Another version by `version`.
        """
        with translated_errors():
            number = None if version is None else parse_version(version)
            watching.answers.flush()
            return watching.reviewer.review(check_name(name), number, days=days).document()

    return routes
