"""`turntable adapters engines | drift | audit`: slots and resident adapters, answer drift, and the audit log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.admin_client import connect
from turntable.console import print_json, say, show, table_of
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

_ENGINE_COLUMNS = (
    "engine", "state", "circuit", "running", "waiting", "slots", "in slots", "in memory", "pinned", "note",
)  # fmt: skip
_DRIFT_COLUMNS = {
    "metric": "measure",
    "drift": "drift",
    "answers": "answers",
    "baseline": "baseline",
    "live": "live",
    "distance": "distance",
    "by chance": "by_chance",
}
_LONGEST_EVIDENCE = 160


def audit(
    subject: Annotated[str | None, typer.Argument(help="An adapter, a version like name@v3, or key:ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, the newest first.")] = 30,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print the audit log, the newest entries first: time, actor, action, subject and evidence."""
    show_audit_log(subject, limit, gateway, data_dir, as_json=as_json)


def show_audit_log(subject: str | None, limit: int, gateway: str, data_dir: Path, *, as_json: bool) -> None:
    """Print the newest entries about a subject, or all of them."""
    parameters = {"limit": str(limit)} | ({"subject": subject} if subject else {})
    with connect(gateway, data_dir) as admin:
        entries = admin.request("GET", "/audit", params=parameters)["data"]
    if as_json:
        print_json(entries)
        return
    rows = [entry | {"evidence": _short(entry["evidence"])} for entry in entries]
    show(table_of({head: head for head in ("at", "actor", "action", "subject", "evidence")}, rows))


def engines(gateway: Gateway = DEFAULT_GATEWAY, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """List engines with their state, slots, and the adapters in slots and in memory."""
    with connect(gateway, data_dir) as admin:
        found = admin.request("GET", "/engines")["data"]
    if as_json:
        print_json(found)
        return
    show(table_of({head: head for head in _ENGINE_COLUMNS}, [_engine_row(engine) for engine in found]))


def drift(
    name: str,
    version: Annotated[str | None, typer.Option(help="A version, like v3.", show_default="the live one")] = None,
    days: Annotated[int, typer.Option(min=1, max=400, help="Days of answers, including today.")] = 7,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Compare sampled live answers with the training baseline: length, finish reason, format, class mix."""
    query = {"days": days} | ({"version": version} if version else {})
    with connect(gateway, data_dir) as admin:
        document = admin.request("GET", f"/adapters/{name}/drift", params=query)
    if as_json:
        print_json(document)
        return
    subject = f"{name}@{document['version']} since {document['since']}"
    if document["measures"]:
        show(table_of(_DRIFT_COLUMNS, document["measures"], title=subject))
    else:
        say(f"{subject}: no drift is measured, because its training left no baseline.")
    show_retraining_triggers(document["retrain"])


def show_retraining_triggers(triggers: Sequence[Mapping[str, object]]) -> None:
    """Print the retraining triggers, those that are due first."""
    for trigger in sorted(triggers, key=lambda trigger: not trigger["is_due"]):
        say(f"{'DUE' if trigger['is_due'] else 'ok ':<4}{trigger['reason']}: {trigger['sentence']}")


def _short(evidence: Mapping[str, object]) -> str:
    plain = {name: value for name, value in evidence.items() if isinstance(value, str | int | float) and value != ""}
    text = ", ".join(f"{name} {value}" for name, value in plain.items())
    return text if len(text) <= _LONGEST_EVIDENCE else f"{text[: _LONGEST_EVIDENCE - 1]}…"


def _engine_row(engine: Mapping[str, Any]) -> dict[str, Any]:
    tiers = engine.get("tiers") or {"slot": [], "cpu": engine["resident"]}
    return {
        "engine": engine["name"],
        "state": engine["state"],
        "circuit": engine["circuit"],
        "running": engine["running"],
        "waiting": engine["waiting_for_slot"],
        "slots": f"{len(tiers.get('slot', ()))} of {engine['slots']}",
        "in slots": list(tiers.get("slot", ())),
        "in memory": list(tiers.get("cpu", ())),
        "pinned": engine.get("pinned") or [],
        "note": engine["reason"] or engine["warning"] or engine["degraded"],
    }
