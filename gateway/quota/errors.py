"""What a client is told when a limit or a budget of its key or tenant stands in the way; `reason` is for metrics.

RateLimitError               429  more than may be used for now; `retry-after` says when it may
├── TokenLimitError               of tokens
└── BudgetHeldError               what is left of a budget is held by requests that still run
BudgetSpentError             429  a budget is used up: trying again before it renews is no use
BudgetUncheckedError         503  there is a budget, and no price or no database to check it with
"""

from typing import ClassVar

from gateway.errors import GatewayError


class RateLimitError(GatewayError):
    """More than the key or its tenant may use for now; nothing was counted."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, reason: str, wait_ms: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.wait_ms = wait_ms

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"retry-after", b"%d" % -(-self.wait_ms // 1000)),
            (b"retry-after-ms", b"%d" % self.wait_ms),
            (b"x-should-retry", b"true"),
        ]


class TokenLimitError(RateLimitError):
    """More tokens per minute than there are."""

    type = "tokens"


def rate_limit_error(what: str, whose: str, limit: int, wait_ns: int) -> RateLimitError:
    """A bucket will not hold enough `what` (requests or tokens) for another `wait_ns`."""
    wait_ms = max(1, -(-wait_ns // 1_000_000))
    many = what if limit != 1 else what.removesuffix("s")
    message = f"Rate limit reached for {whose}: {limit} {many} per minute. Try again in {wait_ms / 1000:g} s."
    kind = TokenLimitError if what == "tokens" else RateLimitError
    return kind(message, reason=what, wait_ms=wait_ms)


def concurrency_error(whose: str, limit: int) -> RateLimitError:
    """As many requests run as may."""
    message = f"Limit reached for {whose}: {limit} requests at a time. Try again when one of them has ended."
    return RateLimitError(message, reason="concurrency", wait_ms=1000)


class BudgetHeldError(RateLimitError):
    """What is left of a budget is reserved by requests that still run; most of it comes back when they end."""

    code = "budget_in_flight"

    def __init__(self, budget: str) -> None:
        super().__init__(
            f"What is left of {budget} is reserved for requests that are still running; try again in a moment.",
            reason="budget_in_flight",
            wait_ms=1000,
        )


class BudgetSpentError(GatewayError):
    """A budget has not enough left for this request."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    reason: ClassVar[str] = "budget"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-should-retry", b"false")]


class BudgetUncheckedError(GatewayError):
    """There is a budget and nothing to check it with; what cannot be checked is not given away."""

    status = 503
    type = "service_unavailable_error"
    code = "budget_unchecked"

    def __init__(self, message: str, *, reason: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % self.retry_after_s)]
