"""Admin API for adapter versions: publish, list, show, verify, retire, and the audit log."""

import contextlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel as Schema
from pydantic import ConfigDict
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message

from adapters import AdapterRef, Registry, Store, Version
from adapters.ref import check_name
from gateway.admin_api.adapter_documents import AdapterDocuments, body_of, read_body
from gateway.auth import Caller
from gateway.errors import InvalidRequestError, NotFoundError, RequestTooLargeError
from gateway.quality.review import Reviewer
from gateway.releases.canary import CanaryMonitor
from gateway.releases.errors import parse_version, translated_errors
from gateway.releases.publish import Publisher
from gateway.releases.rollout import Rollout
from gateway.releases.shadow import Shadows
from gateway.threads import FILES, REPORTS, entered_in_file_thread


class PublishSourceBody(Schema):
    """JSON body of a publish from a source that `adapter_sources` allows."""

    model_config = ConfigDict(extra="forbid")
    name: str
    source: str
    convert: bool = False


_FORM_BYTES = 1 << 20  # for the parts of a form around the archive
_UPLOAD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
        "convert": {"type": "boolean", "default": False},
    },
    "required": ["name", "file"],
}
_PUBLISH = body_of(PublishSourceBody)
_PUBLISH["requestBody"]["content"]["multipart/form-data"] = {"schema": _UPLOAD}


@dataclass(frozen=True)
class AdapterServices:
    """Services that the adapter routes call."""

    publisher: Publisher
    rollout: Rollout
    registry: Registry
    store: Store
    documents: AdapterDocuments
    canaries: CanaryMonitor
    shadows: Shadows
    reviewer: Reviewer


def adapter_routes(services: AdapterServices, admin: Any) -> APIRouter:
    """Build the routes of adapters and of the audit log; `admin` is the dependency that requires an admin key."""
    routes = APIRouter(prefix="/admin/v1", tags=["adapters"])
    _add_reading(routes, services, admin)
    _add_changes(routes, services, admin)
    return routes


def _add_reading(routes: APIRouter, services: AdapterServices, admin: Any) -> None:
    registry, documents = services.registry, services.documents

    @routes.get("/adapters", dependencies=[Depends(admin)])
    def list_adapters() -> dict[str, Any]:
        """List all versions of all adapters, with their traffic and the engines where they are resident."""
        versions = [version for all_of_name in registry.snapshot.versions.values() for version in all_of_name]
        return {"object": "list", "data": documents.versions(versions)}

    @routes.get("/adapters/{name}", dependencies=[Depends(admin)])
    def get_adapter(name: str) -> dict[str, Any]:
        """Get an adapter: traffic policy, results of canary and shadow so far, and its versions with their evidence."""
        with translated_errors():
            check_name(name)
        work = documents.work(name)
        versions = registry.snapshot.versions.get(name, ())
        if not versions and not work:
            raise NotFoundError(f"There is no adapter '{name}'; GET /admin/v1/adapters lists what there is.")
        return {
            "name": name,
            "policy": documents.policy(name),
            "canary_watch": services.canaries.describe(name),
            "shadow_mirror": services.shadows.describe(name),
            "retrain": [asdict(trigger) for trigger in services.reviewer.triggers(name)],
            "in_work": work,
            "versions": [documents.whole_version(version) for version in versions],
        }

    @routes.get("/adapters/{name}/work", dependencies=[Depends(admin)])
    async def get_work(name: str) -> dict[str, Any]:
        """Get the progress of running publishes and verifications of a name."""
        with translated_errors():
            return {"name": check_name(name), "in_work": documents.work(name)}

    @routes.get("/adapters/{name}/versions/{version}", dependencies=[Depends(admin)])
    def get_version(name: str, version: str) -> dict[str, Any]:
        """Get a version with its manifest, history and evidence."""
        return documents.whole_version(_find(registry, name, version))

    @routes.get("/audit", dependencies=[Depends(admin)])
    def audit(
        limit: Annotated[int, Query(description="How many entries, 1,000 at most.")] = 100,
        subject: Annotated[
            str | None, Query(description="A name with all its versions, one like name@v3, or key: for all keys.")
        ] = None,
    ) -> dict[str, Any]:
        """List the audit log: who did what to which version on which evidence, newest first."""
        return {"object": "list", "data": registry.audit(min(max(limit, 1), 1_000), subject)}


def _add_changes(routes: APIRouter, services: AdapterServices, admin: Any) -> None:
    publisher, registry, documents = services.publisher, services.registry, services.documents

    @routes.post("/adapters", status_code=201, openapi_extra=_PUBLISH)
    async def publish(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Publish an adapter: multipart with name and file (tar.gz or zip), or JSON with name and source.

        `convert` converts another tool's layout to PEFT's first; `warnings` in the response list what looks wrong.
        """
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            version = await _publish_upload(request, publisher, services.store, caller)
        else:
            body = read_body(PublishSourceBody, await request.body())
            version = await publisher.publish_source(body.name, body.source, actor=caller.key_id, convert=body.convert)
        return await REPORTS.run(documents.whole_row, version)

    @routes.post("/adapters/{name}/versions/{version}/verify")
    async def verify(name: str, version: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Verify a version: re-hash its stored files, repeat preflight and probe; `ok` says whether it passed."""
        found = _find(registry, name, version)
        reason = await publisher.verify(name, found.version, actor=caller.key_id)
        whole = await REPORTS.run(documents.whole_version, _find(registry, name, version))
        return {"ok": not reason, "failure": reason} | whole

    @routes.delete("/adapters/{name}/versions/{version}")
    async def retire(name: str, version: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Retire a version without traffic: drain it, unload it, verify that it is gone, delete its files."""
        found = _find(registry, name, version)
        retired = await services.rollout.retire(name, found.version, actor=caller.key_id)
        engines = [asdict(left) for left in retired.engines]
        return documents.version(retired.version) | {"engines": engines, "files": retired.files}


def _find(registry: Registry, name: str, version: str) -> Version:
    with translated_errors():
        return registry.snapshot.resolve(AdapterRef(check_name(name), version=parse_version(version)))


async def _publish_upload(request: Request, publisher: Publisher, store: Store, caller: Caller) -> Version:
    bounded = _bounded(request, publisher.max_bytes)
    async with contextlib.AsyncExitStack() as stack:
        try:
            form = await stack.enter_async_context(bounded.form(max_files=1, max_fields=4))
        except ClientDisconnect as error:
            raise InvalidRequestError("The upload broke off; send it again.", param="file") from error
        name, upload, convert = form.get("name"), form.get("file"), form.get("convert", "false")
        if not isinstance(name, str) or not isinstance(upload, UploadFile):
            raise InvalidRequestError(
                "Send a multipart form with the fields 'name' and 'file' (a tar.gz or zip).", param="file"
            )
        if convert not in ("true", "false"):
            raise InvalidRequestError("'convert' is true or false.", param="convert")
        with translated_errors():
            scratch = await stack.enter_async_context(entered_in_file_thread(store.incoming()))
            archive = scratch / "upload"
            await FILES.run(_copy, upload.file, archive)
            return await publisher.publish_archive(name, archive, actor=caller.key_id, convert=convert == "true")


def _bounded(request: Request, max_bytes: int) -> Request:
    """Limit the body of an upload; reading past the limit raises `RequestTooLargeError`."""
    room = max_bytes + _FORM_BYTES

    async def receive() -> Message:
        nonlocal room
        message = await request.receive()
        room -= len(message.get("body", b""))
        if room < 0:
            raise RequestTooLargeError(f"The upload is larger than {max_bytes} bytes; raise max_upload_bytes.")
        return message

    return Request(request.scope, receive)


def _copy(upload: BinaryIO, archive: Path) -> None:
    with archive.open("wb") as out:
        shutil.copyfileobj(upload, out, 1 << 20)
