"""What mirroring has shown: sums over pairs of answers, one of the live version and one of the shadow."""

from dataclasses import dataclass, field
from typing import Any

from gateway.ledger import Entry, now_us
from gateway.usage import Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as far as it is compared."""

    latency_ms: float
    usage: Usage
    text: str

    @classmethod
    def of(cls, entry: Entry, text: str) -> "Answer":
        """The answer whose request has just ended."""
        return cls((now_us() - entry.opened_us) / 1e3, entry.usage, text)


@dataclass(slots=True)
class Side:
    """Sums over the answers of one version."""

    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, answer: Answer) -> None:
        """Take one answer."""
        self.latency_ms += answer.latency_ms
        self.prompt_tokens += answer.usage.prompt_tokens
        self.completion_tokens += answer.usage.completion_tokens

    def document(self, answers: int) -> dict[str, Any]:
        """As JSON; the mean is None without answers."""
        return {
            "mean_latency_ms": round(self.latency_ms / answers, 3) if answers else None,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(slots=True)
class Mirror:
    """One shadow beside the version that was live, since this gateway knows of the two."""

    live_version: int
    shadow_version: int
    answered: int = 0
    failed: int = 0
    dropped: int = 0
    greedy: int = 0
    """Pairs asked for at temperature 0: only their texts can be compared."""
    equal: int = 0
    similarity: float = 0.0
    live: Side = field(default_factory=Side)
    shadow: Side = field(default_factory=Side)

    def answered_freely(self, live: Answer, shadow: Answer) -> None:
        """Take a pair of sampled answers: nothing follows from their texts."""
        self.answered += 1
        self.live.add(live)
        self.shadow.add(shadow)

    def answered_greedily(self, live: Answer, shadow: Answer, similarity: float) -> None:
        """Take a pair of greedy answers; `similarity` is 1 when the texts are equal."""
        self.answered_freely(live, shadow)
        self.greedy += 1
        self.equal += similarity == 1
        self.similarity += similarity

    def document(self) -> dict[str, Any]:
        """As JSON for operators."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "dropped": self.dropped,
            "compared_texts": self.greedy,
            "equal_texts": self.equal,
            "mean_similarity": round(self.similarity / self.greedy, 4) if self.greedy else None,
            "live": self.live.document(self.answered),
            "shadow": self.shadow.document(self.answered),
        }
