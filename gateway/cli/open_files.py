"""As many open files as the settings need: each client connection is one, and so is each connection to an engine."""

import resource
from collections.abc import Callable

from gateway.cli.base import ServeError
from gateway.settings import Settings

_OTHER_FILES = 128
"""Databases, journals, logs, listeners, uploads and what Python itself holds open."""
_FEWEST_CONNECTIONS = 8


def with_room_for_files(settings: Settings, announce: Callable[[str], None]) -> Settings:
    """Raise this process's limit to what the settings need, or return settings with fewer connections and say so;
    raises `ServeError` when there is room for next to none.
    """
    needed = _needed(settings, settings.max_connections)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_enough(soft, needed):
        return settings
    if _is_enough(hard, needed):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return settings
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - _OTHER_FILES - settings.max_shadowed
    connections = max(room - settings.max_in_flight, room // 2)
    advice = f"raise it with `ulimit -n {needed}`, LimitNOFILE={needed} (systemd) or --ulimit nofile={needed} (Docker)"
    if connections < _FEWEST_CONNECTIONS:
        raise ServeError(f"{hard} open files are allowed (ulimit -n), too few to serve anybody; {advice}.")
    announce(
        f"{hard} open files are allowed (ulimit -n) and max_connections={settings.max_connections} needs {needed}, so "
        f"{connections} connections are taken at a time; {advice}"
    )
    return settings.model_copy(update={"max_connections": connections})


def _needed(settings: Settings, connections: int) -> int:
    """A request that runs holds a connection to an engine besides its client's."""
    return connections + min(connections, settings.max_in_flight) + settings.max_shadowed + _OTHER_FILES


def _is_enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
