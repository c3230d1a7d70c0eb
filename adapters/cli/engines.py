"""`turntable adapters engines`: what each engine does, and which adapters are in its slots."""

from typing import Any

from adapters.cli.shared import DATA, URL, AsJson, DataDir, Gateway, admin_of, print_json, print_table

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
