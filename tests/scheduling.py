"""How two processes share the suite: tests of one group run in one process, one after the other.

xdist has `--dist loadgroup` for this, which with pytest 9.2 silently groups nothing (pytest-xdist issue 1386).
"""

from xdist.scheduler.loadscope import LoadScopeScheduling


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Groups in the order of the collection, each as a whole to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The group of a test: what needs the one real engine, what trains, or its own file."""
    path = nodeid.partition("::")[0]
    room = path.removeprefix("tests/").partition("/")[0]
    if room in ("e2e", "clients"):
        return "engine"
    return "trainer" if room == "trainer" else path
