"""`turntable adapters promote | approve | rollback | canary | shadow | pin | ...`: which version answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.admin_client import connect
from adapters.cli.versions import Version, show_policy, show_versions
from turntable.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    AsJson,
    DataDir,
    Gateway,
    OverrideBy,
    OverrideReason,
    override_of,
)

ExpectLive = Annotated[str | None, typer.Option(help="Refuse unless this version is live now, like v3.")]
OptionalVersion = Annotated[str | None, typer.Argument(help="Like v3.")]
Percent = Annotated[float | None, typer.Argument(help="Share of requests in percent, above 0 and up to 100.")]


def promote(
    name: str,
    version: Version,
    expect_live: ExpectLive = None,
    override: OverrideReason = None,
    by: OverrideBy = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a version live; it needs a valid PROMOTE verdict. Running requests finish on the version they started on."""
    overriding = override_of(override, by)
    with connect(gateway, data_dir) as admin:
        promoted = admin.promote(name, version, expect_live=expect_live, override=overriding)
    show_versions([promoted], as_json=as_json)


def approve(
    name: str,
    version: Version,
    reason: Annotated[str, typer.Option(help="Why it may go live; kept in the audit log.")],
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Approve a version for promotion, with another admin key than the one that published it."""
    with connect(gateway, data_dir) as admin:
        approved = admin.request("POST", f"/adapters/{name}/versions/{version}/approve", json={"reason": reason})
    show_versions([approved], as_json=as_json)


def rollback(
    name: str,
    expect_live: ExpectLive = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Make the previous live version live again."""
    body = {"expect_live": expect_live} if expect_live else {}
    with connect(gateway, data_dir) as admin:
        restored = admin.request("POST", f"/adapters/{name}/rollback", json=body)
    show_versions([restored], as_json=as_json)


def canary(
    name: str,
    version: OptionalVersion = None,
    percent: Percent = None,
    off: Annotated[bool, typer.Option("--off", help="End the canary: all requests go to the live version.")] = False,
    max_extra_error_rate: Annotated[
        float | None, typer.Option(help="Highest error rate above that of the live version.", show_default="0.05")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="Highest p95 latency over that of the live version.", show_default="2")
    ] = None,
    min_requests: Annotated[
        int | None, typer.Option(help="Requests before the limits apply.", show_default="20")
    ] = None,
    window_s: Annotated[
        float | None, typer.Option(help="Seconds of traffic that the limits look at.", show_default="300")
    ] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Start or end a canary; it is rolled back automatically when it violates its limits."""
    given = {
        "max_extra_error_rate": max_extra_error_rate,
        "max_latency_ratio": max_latency_ratio,
        "min_requests": min_requests,
        "window_s": window_s,
    }
    limits = {limit: value for limit, value in given.items() if value is not None}
    body = _split(version, percent, off=off) | ({"bounds": limits} if limits else {})
    _change_policy(gateway, data_dir, f"/adapters/{name}/canary", None if off else body, as_json=as_json)


def shadow(
    name: str,
    version: OptionalVersion = None,
    percent: Percent = None,
    off: Annotated[bool, typer.Option("--off", help="End the shadow.")] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Replay a share of live requests to a shadow version and compare its answers, which no client gets."""
    body = _split(version, percent, off=off)
    _change_policy(gateway, data_dir, f"/adapters/{name}/shadow", None if off else body, as_json=as_json)


def pin(
    name: str, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Keep the live version of an adapter resident in every engine."""
    _change_policy(gateway, data_dir, f"/adapters/{name}/pin", {"pinned": True}, as_json=as_json)


def unpin(
    name: str, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Allow engines to evict an adapter again."""
    _change_policy(gateway, data_dir, f"/adapters/{name}/pin", {"pinned": False}, as_json=as_json)


def withdraw(
    name: str, gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Take a name out of traffic so that its versions can be retired; `rollback` undoes it."""
    with connect(gateway, data_dir) as admin:
        withdrawn = admin.request("DELETE", f"/adapters/{name}/live")
    show_versions([withdrawn], as_json=as_json)


def _change_policy(gateway: str, data_dir: Path, path: str, body: Mapping[str, Any] | None, *, as_json: bool) -> None:
    """Post `body` to a part of a name's rollout policy, or delete that part when `body` is None; print the policy."""
    with connect(gateway, data_dir) as admin:
        policy = admin.request("DELETE", path) if body is None else admin.request("POST", path, json=body)
    show_policy(policy, as_json=as_json)


def _split(version: str | None, percent: float | None, *, off: bool) -> dict[str, Any]:
    if off == (version is not None) or off == (percent is not None):
        raise typer.BadParameter("give a version and a percentage, or --off.", param_hint="VERSION PERCENT")
    return {"version": version, "percent": percent}
