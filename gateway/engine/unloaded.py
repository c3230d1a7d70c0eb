"""What became of a version that was to leave an engine."""

from dataclasses import dataclass
from enum import StrEnum


class Left(StrEnum):
    """How an unload ended: REMOVED and seen to be gone, only FORGOTTEN (no plugin), LINGERING until the engine has
    finished with a request cut off a moment ago, still BUSY at the deadline, or ABSENT from the start.
    """

    REMOVED = "removed"
    FORGOTTEN = "forgotten"
    LINGERING = "lingering"
    BUSY = "busy"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What became of a version in one engine, and how long its requests were waited for."""

    engine: str
    left: Left
    waited_s: float
