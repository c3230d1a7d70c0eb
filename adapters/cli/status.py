"""`turntable adapters audit`: who did what to which version on which evidence.

`turntable adapters engines`: what each engine does, and which adapters are in its slots.

`turntable adapters drift`: live answers beside those that a version learnt from, and whether to train again.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.shared import DATA, URL, AsJson, DataDir, Gateway, admin_of, print_json, print_table


def audit(
    subject: Annotated[str | None, typer.Argument(help="An adapter, one version like name@v3, or key:ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries, the newest first.")] = 30,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Who did what to which version on which evidence, newest first."""
    show_entries(subject, limit, gateway, data_dir, as_json=as_json)


def show_entries(subject: str | None, limit: int, gateway: str, data_dir: Path, *, as_json: bool) -> None:
    """Print the newest entries about a subject, or about everything."""
    parameters = {"limit": str(limit)} | ({"subject": subject} if subject else {})
    with admin_of(gateway, data_dir) as admin:
        entries = admin.request("GET", "/audit", params=parameters)["data"]
    if as_json:
        return print_json(entries)
    rows = [entry | {"evidence": _short(entry["evidence"])} for entry in entries]
    return print_table({head: head for head in ("at", "actor", "action", "subject", "evidence")}, rows)


def _short(evidence: dict[str, object]) -> str:
    plain = {name: value for name, value in evidence.items() if isinstance(value, str | int | float) and value != ""}
    text = ", ".join(f"{name} {value}" for name, value in plain.items())
    return text if len(text) <= 160 else f"{text[:159]}…"


_COLUMNS = ("engine", "state", "circuit", "running", "waiting", "slots", "in slots", "in memory", "pinned", "note")


def engines(gateway: Gateway = URL, data_dir: DataDir = DATA, as_json: AsJson = False) -> None:
    """Each engine with its state, its slots, and the adapters in slots and in memory."""
    with admin_of(gateway, data_dir) as admin:
        found = admin.request("GET", "/engines")["data"]
    if as_json:
        return print_json(found)
    return print_table({head: head for head in _COLUMNS}, [_row(engine) for engine in found])


def _row(engine: dict[str, Any]) -> dict[str, Any]:
    tiers = engine.get("tiers") or {"slot": [], "cpu": engine["resident"]}
    return {
        "engine": engine["name"],
        "state": engine["state"],
        "circuit": engine["circuit"],
        "running": str(engine["running"]),
        "waiting": str(engine["waiting_for_a_turn"]),
        "slots": f"{len(tiers.get('slot', ()))} of {engine['slots']}",
        "in slots": list(tiers.get("slot", ())),
        "in memory": list(tiers.get("cpu", ())),
        "pinned": engine.get("pinned") or [],
        "note": engine["reason"] or engine["warning"] or engine["degraded"],
    }


_WATCHING_COLUMNS = {
    name: name for name in ("measure", "drift", "answers", "baseline", "live", "distance", "by_chance")
}


def drift(
    name: str,
    version: Annotated[str | None, typer.Option(help="Another version than the live one, like v3.")] = None,
    days: Annotated[int, typer.Option(min=1, max=400, help="Answers of so many days, today included.")] = 7,
    gateway: Gateway = URL,
    data_dir: DataDir = DATA,
    as_json: AsJson = False,
) -> None:
    """Compare a sample of live answers with those learnt from: lengths, endings, format, class mix; what is due."""
    asked = {"days": days} | ({"version": version} if version else {})
    with admin_of(gateway, data_dir) as admin:
        document = admin.request("GET", f"/adapters/{name}/drift", params=asked)
    if as_json:
        return print_json(document)
    subject = f"{name}@{document['version']} since {document['since']}"
    if document["measures"]:
        print_table(_WATCHING_COLUMNS, document["measures"], title=subject)
    else:
        typer.echo(f"{subject}: not watched, because its training left no baseline.")
    return show_due(document["retrain"])


def show_due(triggers: list[dict[str, object]]) -> None:
    """Print each reason to train again, the ones that hold first."""
    for trigger in sorted(triggers, key=lambda trigger: not trigger["is_due"]):
        typer.echo(f"{'DUE' if trigger['is_due'] else 'ok ':<4}{trigger['reason']}: {trigger['sentence']}")
