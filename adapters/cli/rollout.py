"""`turntable adapters promote | approve | rollback | canary | shadow | pin | …`: which version answers."""

from typing import Annotated, Any

import typer

from adapters.cli.shared import (
    DATA,
    URL,
    AsJson,
    DataDir,
    Gateway,
    OverrideBy,
    OverrideReason,
    Version,
    admin_of,
    override_of,
    show_policy,
    show_versions,
)

ExpectLive = Annotated[str | None, typer.Option(help="Refuse unless this version is live now.")]
MaybeVersion = Annotated[str | None, typer.Argument(help="Like v3.")]
MaybePercent = Annotated[float | None, typer.Argument(help="Share of the name's requests, above 0 up to 100.")]
Bound = Annotated[float | None, typer.Option()]


def promote(
    name: str,
    version: Version,
    expect_live: ExpectLive = None,
    override: OverrideReason = None,
    by: OverrideBy = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Make a version live that has a verdict: new requests go to it at once, running ones finish where they began."""
    overriding = override_of(override, by)
    with admin_of(gateway, data_dir) as admin:
        promoted = admin.promote(name, version, expect_live=expect_live, override=overriding)
        show_versions([promoted], as_json=as_json)


def approve(
    name: str,
    version: Version,
    reason: Annotated[str, typer.Option(help="Why it may go live; kept on the audit log.")],
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Agree to a version going live, with another admin key than published it and will promote it."""
    with admin_of(gateway, data_dir) as admin:
        path = f"/adapters/{name}/versions/{version}/approve"
        show_versions([admin.request("POST", path, json={"reason": reason})], as_json=as_json)


def rollback(
    name: str,
    expect_live: ExpectLive = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Make the version live again that was live before."""
    body = {"expect_live": expect_live} if expect_live else {}
    with admin_of(gateway, data_dir) as admin:
        show_versions([admin.request("POST", f"/adapters/{name}/rollback", json=body)], as_json=as_json)


def canary(
    name: str,
    version: MaybeVersion = None,
    percent: MaybePercent = None,
    off: Annotated[bool, typer.Option("--off", help="End the canary: all requests go to the live version.")] = False,
    max_extra_error_rate: Annotated[float | None, typer.Option(help="Allowed above live's [default: 0.05]")] = None,
    max_latency_ratio: Annotated[float | None, typer.Option(help="Allowed p95 over live's [default: 2]")] = None,
    min_requests: Annotated[int | None, typer.Option(help="Judge after so many requests [default: 20]")] = None,
    window_s: Annotated[float | None, typer.Option(help="Judge by the latest seconds [default: 300]")] = None,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Have a version answer a share of the requests; the gateway takes it back when it breaks its bounds."""
    given = {
        "max_extra_error_rate": max_extra_error_rate,
        "max_latency_ratio": max_latency_ratio,
        "min_requests": min_requests,
        "window_s": window_s,
    }
    bounds = {bound: value for bound, value in given.items() if value is not None}
    body = _split(version, percent, off=off) | ({"bounds": bounds} if bounds else {})
    with admin_of(gateway, data_dir) as admin:
        method, options = ("DELETE", {}) if off else ("POST", {"json": body})
        show_policy(admin.request(method, f"/adapters/{name}/canary", **options), as_json=as_json)


def shadow(
    name: str,
    version: MaybeVersion = None,
    percent: MaybePercent = None,
    off: Annotated[bool, typer.Option("--off", help="End the shadow.")] = False,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Ask a share of the answered requests again of a version and compare; nobody is answered from it."""
    body = _split(version, percent, off=off)
    with admin_of(gateway, data_dir) as admin:
        method, options = ("DELETE", {}) if off else ("POST", {"json": body})
        show_policy(admin.request(method, f"/adapters/{name}/shadow", **options), as_json=as_json)


def pin(name: str, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Keep the live version of an adapter resident in every engine."""
    with admin_of(gateway, data_dir) as admin:
        show_policy(admin.request("POST", f"/adapters/{name}/pin", json={"pinned": True}), as_json=as_json)


def unpin(name: str, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Let the engines put an adapter aside again when others need its slot."""
    with admin_of(gateway, data_dir) as admin:
        show_policy(admin.request("POST", f"/adapters/{name}/pin", json={"pinned": False}), as_json=as_json)


def withdraw(name: str, gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Take a name out of traffic, so that its versions can be retired; a rollback brings it back."""
    with admin_of(gateway, data_dir) as admin:
        show_versions([admin.request("DELETE", f"/adapters/{name}/live")], as_json=as_json)


def _split(version: str | None, percent: float | None, *, off: bool) -> dict[str, Any]:
    if off == (version is not None) or off == (percent is not None):
        raise typer.BadParameter("give a version and a percentage, or --off.", param_hint="VERSION PERCENT")
    return {"version": version, "percent": percent}
