"""The admin surface for adapters: publish, list, show, promote, audit."""

import shutil
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, ValidationError
from starlette.datastructures import UploadFile

from adapters import AdapterRef, Registry, Store, Version
from adapters.ref import check_name
from gateway.auth import Caller
from gateway.errors import InvalidRequestError, NotFoundError
from gateway.publish import Publisher, parse_version, translated_errors

_Body = TypeVar("_Body", bound=Schema)


class PublishSource(Schema):
    """JSON body of a publish from a directory on the gateway's machine."""

    model_config = ConfigDict(extra="forbid")
    name: str
    source: str


class Promotion(Schema):
    """JSON body of a promotion; `expect_live` makes it a compare-and-swap."""

    model_config = ConfigDict(extra="forbid")
    version: str
    expect_live: str | None = None


def adapter_routes(publisher: Publisher, registry: Registry, store: Store, admin: Any) -> APIRouter:
    """Routes below /admin/v1/adapters and /admin/v1/audit; `admin` is the dependency that demands an admin key."""
    routes = APIRouter(prefix="/admin/v1", tags=["adapters"])

    @routes.post("/adapters", status_code=201)
    async def publish(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Publish an adapter: multipart with name and file (tar.gz), or JSON with name and source (a directory)."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return _describe(registry, await _publish_upload(request, publisher, store, caller))
        source = _parse(PublishSource, await request.body())
        version = await publisher.publish_directory(source.name, Path(source.source), actor=caller.key_id)
        return _describe(registry, version)

    @routes.get("/adapters", dependencies=[Depends(admin)])
    def list_adapters() -> dict[str, Any]:
        """Every version of every adapter."""
        versions = [version for all_of_name in registry.snapshot.versions.values() for version in all_of_name]
        return {"object": "list", "data": [_describe(registry, version) for version in versions]}

    @routes.get("/adapters/{name}", dependencies=[Depends(admin)])
    def get_adapter(name: str) -> dict[str, Any]:
        """One adapter with the manifests of its versions."""
        with translated_errors():
            check_name(name)
        versions = registry.snapshot.versions.get(name)
        if versions is None:
            raise NotFoundError(f"There is no adapter '{name}'; GET /admin/v1/adapters lists what there is.")
        return {"name": name, "versions": [_describe(registry, version, whole=True) for version in versions]}

    @routes.get("/adapters/{name}/versions/{version}", dependencies=[Depends(admin)])
    def get_version(name: str, version: str) -> dict[str, Any]:
        """One version with its manifest."""
        with translated_errors():
            found = registry.snapshot.resolve(AdapterRef(check_name(name), version=parse_version(version)))
        return _describe(registry, found, whole=True)

    @routes.post("/adapters/{name}/promote")
    async def promote(name: str, request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Make a version live."""
        promotion = _parse(Promotion, await request.body())
        expected = parse_version(promotion.expect_live) if promotion.expect_live else None
        number = parse_version(promotion.version)
        return _describe(registry, await publisher.promote(name, number, expect_live=expected, actor=caller.key_id))

    @routes.get("/audit", dependencies=[Depends(admin)])
    def audit(limit: int = 100) -> dict[str, Any]:
        """Who did what to which version, newest first."""
        return {"object": "list", "data": registry.audit(min(max(limit, 1), 1_000))}

    return routes


async def _publish_upload(request: Request, publisher: Publisher, store: Store, caller: Caller) -> Version:
    form = await request.form(max_files=1, max_fields=4)
    name, upload = form.get("name"), form.get("file")
    if not isinstance(name, str) or not isinstance(upload, UploadFile):
        raise InvalidRequestError("Send a multipart form with the fields 'name' and 'file' (a tar.gz).", param="file")
    with translated_errors(), store.incoming() as scratch:
        archive = scratch / "upload.tar.gz"
        with archive.open("wb") as out:
            shutil.copyfileobj(upload.file, out, 1 << 20)
        return await publisher.publish_archive(name, archive, actor=caller.key_id)


def _parse(kind: type[_Body], body: bytes) -> _Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequestError(f"{field or 'The body'}: {first['msg']}.", param=field) from error


def _describe(registry: Registry, version: Version, *, whole: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": version.name,
        "version": f"v{version.version}",
        "digest": version.digest,
        "state": version.state,
        "reason": version.reason,
        "live": registry.snapshot.live.get(version.name) == version.version,
    }
    return document | ({"manifest": version.manifest.model_dump(mode="json")} if whole else {})
