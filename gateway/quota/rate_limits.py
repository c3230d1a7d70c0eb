"""A token bucket in whole numbers: a minute's worth fits in, and it refills continuously.

What was taken is counted in units of 1/60,000,000,000, so that a limit per minute times nanoseconds is a whole number:
a bucket never drifts, and what it says remains is exactly what it gives.

The limiter: takes a request from the buckets of its key and its tenant, from all of them or from none.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.auth import Account, Limits
from gateway.quota.errors import concurrency_error, rate_limit_error

_UNIT = 60 * 10**9


@dataclass(slots=True)
class Bucket:
    """What was taken from a bucket and has not come back; times are nanoseconds of a clock that never goes back."""

    taken: int = 0
    at_ns: int = 0

    def remaining(self, capacity: int, per_minute: int, now_ns: int) -> int:
        """How many can be taken now; negative while a debt is paid off."""
        self._refill(per_minute, now_ns)
        return capacity - -(-self.taken // _UNIT)

    def take(self, count: int, per_minute: int, now_ns: int) -> None:
        """Take so many, or give back what was not used when negative; more than is there makes a debt."""
        self._refill(per_minute, now_ns)
        self.taken = max(0, self.taken + count * _UNIT)

    def wait_ns(self, count: int, capacity: int, per_minute: int) -> int:
        """Nanoseconds until `count` can be taken, if nobody takes any before; 0 is now."""
        missing = self.taken + (count - capacity) * _UNIT
        return max(0, -(-missing // per_minute))

    def full_ns(self, per_minute: int) -> int:
        """Nanoseconds until nothing is missing."""
        return -(-self.taken // per_minute)

    def _refill(self, per_minute: int, now_ns: int) -> None:
        if now_ns > self.at_ns:
            self.taken = max(0, self.taken - per_minute * (now_ns - self.at_ns))
            self.at_ns = now_ns


_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


@dataclass(slots=True)
class AccountMeter:
    """What one account uses now. `running_elsewhere` is what other gateways told last; `requests_let` and `tokens_let`
    count what was let through here since the start, for them.
    """

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    running: int = 0
    running_elsewhere: int = 0
    requests_let: int = 0
    tokens_let: int = 0
    limits: Limits = field(default_factory=Limits)
    """As they were when a request last came."""


Taken = tuple[Account, AccountMeter, int]
"""An account, its meter, and the tokens that one request was counted for."""


class RateLimiter:
    """The meters of all accounts; `gateways` share each limit (see `sharing`)."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self.meters: dict[str, AccountMeter] = {}
        self.used: set[str] = set()
        """Accounts whose meters changed since somebody looked and emptied this."""
        self.gateways = 1

    def take(self, accounts: Sequence[Account], tokens: int) -> "RateLimitGrant":
        """Count a request of about so many tokens in; raises `RateLimitError` having changed nothing."""
        now_ns = self._clock_ns()
        taken: list[Taken] = []
        for account in accounts:
            meter, tpm = self.meter(account.id), account.limits.tpm
            of_tokens = tokens if tpm is None else min(tokens, self.share(tpm))
            self._check(account, meter, of_tokens, now_ns)
            taken.append((account, meter, of_tokens))
        for account, meter, of_tokens in taken:
            self._change(meter, account.limits, 1, of_tokens, now_ns)
            meter.limits = account.limits
            meter.running += 1
            self.used.add(account.id)
        return RateLimitGrant(self, taken, self._headers(taken, now_ns))

    def check(self, accounts: Sequence[Account], tokens: int) -> None:
        """Raise what `take` would raise for at least so many tokens; counts nothing."""
        now_ns = self._clock_ns()
        for account in accounts:
            self._check(account, self.meter(account.id), tokens, now_ns)

    def share(self, limit: int) -> int:
        """How much of a limit one gateway may give at once."""
        return limit if self.gateways == 1 else max(1, limit // self.gateways)

    def correct(self, taken: Sequence[Taken], tokens: int | None) -> None:
        """A request has ended: it used so many tokens; None says that nothing came of it, and nothing counts."""
        now_ns = self._clock_ns()
        for account, meter, estimate in taken:
            meter.running -= 1
            self._change(meter, account.limits, -1 if tokens is None else 0, (tokens or 0) - estimate, now_ns)
            self.used.add(account.id)

    def hear(self, account: str, limits: Limits, requests: int, tokens: int) -> None:
        """Another gateway let so many through."""
        now_ns = self._clock_ns()
        meter = self.meter(account)
        if limits.rpm is not None:
            meter.requests.take(requests, limits.rpm, now_ns)
        if limits.tpm is not None:
            meter.tokens.take(tokens, limits.tpm, now_ns)

    def meter(self, account: str) -> AccountMeter:
        """The meter of an account, new when it has none."""
        meter = self.meters.get(account)
        if meter is None:
            meter = self.meters[account] = AccountMeter()
        return meter

    def headers(self, accounts: Sequence[Account]) -> list[tuple[bytes, bytes]]:
        """What is left of the tightest of the buckets of each kind, as OpenAI writes it."""
        return self._headers([(account, self.meter(account.id), 0) for account in accounts], self._clock_ns())

    def _headers(self, taken: Sequence[Taken], now_ns: int) -> list[tuple[bytes, bytes]]:
        requests, tokens = [], []
        for account, meter, _ in taken:
            if (rpm := account.limits.rpm) is not None:
                requests.append(self._left(meter.requests, rpm, now_ns))
            if (tpm := account.limits.tpm) is not None:
                tokens.append(self._left(meter.tokens, tpm, now_ns))
        return [*_told(_REQUESTS, requests), *_told(_TOKENS, tokens)]

    def _left(self, bucket: Bucket, limit: int, now_ns: int) -> tuple[int, int, int]:
        remaining = bucket.remaining(self.share(limit), limit, now_ns)
        return max(0, remaining), limit, bucket.full_ns(limit)

    def _change(self, meter: AccountMeter, limits: Limits, requests: int, tokens: int, now_ns: int) -> None:
        if limits.rpm is not None:
            meter.requests.take(requests, limits.rpm, now_ns)
        if limits.tpm is not None:
            meter.tokens.take(tokens, limits.tpm, now_ns)
        meter.requests_let += requests
        meter.tokens_let += tokens

    def _check(self, account: Account, meter: AccountMeter, tokens: int, now_ns: int) -> None:
        limits = account.limits
        if limits.max_concurrency is not None and meter.running + meter.running_elsewhere >= limits.max_concurrency:
            raise concurrency_error(_name(account), limits.max_concurrency)
        if limits.rpm is not None and meter.requests.remaining(self.share(limits.rpm), limits.rpm, now_ns) < 1:
            wait_ns = meter.requests.wait_ns(1, self.share(limits.rpm), limits.rpm)
            raise rate_limit_error("requests", _name(account), limits.rpm, wait_ns)
        if limits.tpm is not None and meter.tokens.remaining(self.share(limits.tpm), limits.tpm, now_ns) < tokens:
            wait_ns = meter.tokens.wait_ns(tokens, self.share(limits.tpm), limits.tpm)
            raise rate_limit_error("tokens", _name(account), limits.tpm, wait_ns)


@dataclass(slots=True)
class RateLimitGrant:
    """One request that was let through, until `end`; `headers` say what is left after it."""

    limiter: RateLimiter
    taken: Sequence[Taken]
    headers: list[tuple[bytes, bytes]]

    def end(self, tokens: int | None) -> None:
        """The request has used so many tokens; None when it never got as far as the engine, and nothing counts."""
        self.limiter.correct(self.taken, tokens)


def _told(names: tuple[bytes, bytes, bytes], left: list[tuple[int, int, int]]) -> list[tuple[bytes, bytes]]:
    if not left:
        return []
    remaining, limit, reset_ns = min(left)
    return list(zip(names, (b"%d" % limit, b"%d" % remaining, duration(reset_ns).encode()), strict=True))


def duration(ns: int) -> str:
    """A time as OpenAI writes it: `12ms`, `1.5s`, `6m0s`; never less than it is."""
    ms = -(-ns // 1_000_000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


def _name(account: Account) -> str:
    return "this key" if account.id.startswith("key:") else "this key's tenant"
