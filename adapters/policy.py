"""How the traffic of one name is served: the live version, the one before it, canary, shadow and pin."""

from dataclasses import dataclass, replace

from adapters.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Split:
    """A share of a name's traffic (0 < percent <= 100) for another version: answered by it, or mirrored to it."""

    version: int
    percent: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How the traffic of one name is served.

    `live` answers what neither a ref nor the canary takes, `previous` was live before it, and `pinned` asks that the
    live version stays resident. Canary and shadow are READY versions other than the live one.
    """

    live: int | None = None
    previous: int | None = None
    canary: Split | None = None
    shadow: Split | None = None
    pinned: bool = False

    @property
    def routed(self) -> list[int]:
        """The versions that the bare name can lead to, in order."""
        splits = {split.version for split in (self.canary, self.shadow) if split}
        return sorted(splits | ({self.live} if self.live else set()))

    def promoted(self, number: int) -> "Policy":
        """`number` becomes live, and what was live can be rolled back to."""
        previous = self.live if number != self.live else self.previous
        return replace(self.without(number), live=number, previous=previous)

    def rolled_back(self) -> "Policy":
        """What was live before is live again; what is live now is not kept, so rolling back twice cannot return it."""
        if self.previous is None:
            raise PolicyError("There is no earlier version to roll back to; promote one instead.")
        return replace(self.without(self.previous), live=self.previous, previous=None)

    def withdrawn(self) -> "Policy":
        """Nothing answers the bare name any more; what was live can be rolled back to."""
        if self.live is None:
            raise PolicyError("There is no live version to withdraw.")
        return Policy(previous=self.live)

    def without(self, number: int) -> "Policy":
        """No canary and no shadow of `number`."""
        canary = self.canary if self.canary and self.canary.version != number else None
        shadow = self.shadow if self.shadow and self.shadow.version != number else None
        return replace(self, canary=canary, shadow=shadow)

    def split(self, number: int, percent: float) -> Split:
        """A canary or shadow of `number`, if one makes sense beside what is live; raises `PolicyError`."""
        if not 0 < percent <= 100:
            raise PolicyError(f"{percent} percent is no share of traffic; give more than 0 and at most 100.")
        if self.live is None:
            raise PolicyError("There is no live version to share traffic with; promote one first.")
        if number == self.live:
            raise PolicyError(f"v{number} is live and takes all traffic already; choose another version.")
        return Split(number, float(percent))
