"""A version and an engine as the admin API describes them."""

VERSION = {"name": "mine", "version": "v1", "digest": "1f2e3d4c5b6a" + "0" * 52, "state": "ready", "reason": ""}
ENGINE = {
    "name": "engine-0",
    "state": "ready",
    "reason": "",
    "circuit": "closed",
    "running": 3,
    "waiting_for_slot": 1,
    "slots": 2,
    "resident": ["mine@1f2e3d4c5b6a", "other@0f2e3d4c5b6a"],
    "tiers": {"disk": [], "cpu": ["other@0f2e3d4c5b6a"], "slot": ["mine@1f2e3d4c5b6a"]},
    "pinned": [],
    "warning": "",
    "degraded": "",
}
