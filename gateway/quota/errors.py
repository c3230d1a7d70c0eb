"""Errors of rate limits and budgets of a key or tenant; `reason` labels them in metrics.

RateLimitError               429  a rate or concurrency limit is reached; `retry-after` says when to retry
├── TokenLimitError               the limit of tokens per minute
└── BudgetHeldError               the rest of a budget is reserved for running requests
BudgetSpentError             429  a budget is spent: a retry before it renews fails again
BudgetUncheckedError         503  a budget cannot be checked: no price is configured, or the database is unavailable
"""

from typing import ClassVar

from gateway.errors import GatewayError


class RateLimitError(GatewayError):
    """A rate or concurrency limit of the key or its tenant is reached; nothing was taken."""

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
    """The limit of tokens per minute is reached."""

    type = "tokens"


def rate_limit_error(what: str, whose: str, limit: int, wait_ns: int) -> RateLimitError:
    """Build the error of a token bucket that has too few `what` (requests or tokens) for another `wait_ns`."""
    wait_ms = max(1, -(-wait_ns // 1_000_000))
    many = what if limit != 1 else what.removesuffix("s")
    message = f"Rate limit reached for {whose}: {limit} {many} per minute. Try again in {wait_ms / 1000:g} s."
    kind = TokenLimitError if what == "tokens" else RateLimitError
    return kind(message, reason=what, wait_ms=wait_ms)


def concurrency_error(whose: str, limit: int) -> RateLimitError:
    """Build the error of a reached concurrency limit."""
    message = (
        f"Concurrency limit reached for {whose}: {limit} requests at a time. Try again when one of them has ended."
    )
    return RateLimitError(message, reason="concurrency", wait_ms=1000)


class BudgetHeldError(RateLimitError):
    """The rest of a budget is reserved for running requests; most of it is released when they end."""

    code = "budget_in_flight"

    def __init__(self, budget: str) -> None:
        super().__init__(
            f"The rest of {budget} is reserved for requests that are still running; try again in a moment.",
            reason="budget_in_flight",
            wait_ms=1000,
        )


class BudgetSpentError(GatewayError):
    """A budget has too little left for this request."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    reason: ClassVar[str] = "budget"

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-should-retry", b"false")]


class BudgetUncheckedError(GatewayError):
    """A budget cannot be checked, so the request is rejected: no price, or no database."""

    status = 503
    type = "service_unavailable_error"
    code = "budget_unchecked"

    def __init__(self, message: str, *, reason: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"retry-after", b"%d" % self.retry_after_s)]
