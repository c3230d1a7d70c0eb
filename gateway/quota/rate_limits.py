"""Rate limiter: token buckets for requests and tokens per minute, and concurrency limits, of keys and tenants.

A request is taken from the buckets of its key and of its tenant, or from none. A bucket holds one minute's limit and
refills continuously. Amounts are integers in units of 1/60,000,000,000, so that a limit per minute times nanoseconds is
exact: buckets never drift, and the `x-ratelimit-remaining` headers are exact.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.auth import Account, Limits
from gateway.quota.errors import concurrency_error, rate_limit_error

_UNIT = 60 * 10**9
_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


@dataclass(slots=True)
class Bucket:
    """Token bucket: `taken` is the amount that has not refilled yet, in units; `_ns` times are of a monotonic clock."""

    taken: int = 0
    at_ns: int = 0

    def remaining(self, capacity: int, per_minute: int, now_ns: int) -> int:
        """Return how many can be taken now; negative while the bucket is overdrawn."""
        self._refill(per_minute, now_ns)
        return capacity - -(-self.taken // _UNIT)

    def take(self, count: int, per_minute: int, now_ns: int) -> None:
        """Take `count`, or refund it when negative; taking more than remains overdraws the bucket."""
        self._refill(per_minute, now_ns)
        self.taken = max(0, self.taken + count * _UNIT)

    def wait_ns(self, count: int, capacity: int, per_minute: int) -> int:
        """Return the nanoseconds until `count` can be taken, if no other request takes any; 0: now."""
        missing = self.taken + (count - capacity) * _UNIT
        return max(0, -(-missing // per_minute))

    def full_ns(self, per_minute: int) -> int:
        """Return the nanoseconds until the bucket is full."""
        return -(-self.taken // per_minute)

    def _refill(self, per_minute: int, now_ns: int) -> None:
        if now_ns > self.at_ns:
            self.taken = max(0, self.taken - per_minute * (now_ns - self.at_ns))
            self.at_ns = now_ns


@dataclass(slots=True)
class AccountMeter:
    """Current use of one account: buckets, running requests here and on other gateways (`running_elsewhere`).

    `admitted_requests` and `admitted_tokens` count what this gateway has admitted since its start, for the others.
    """

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    running: int = 0
    running_elsewhere: int = 0
    admitted_requests: int = 0
    admitted_tokens: int = 0
    limits: Limits = field(default_factory=Limits)
    """The account's limits at its latest request."""


Taken = tuple[Account, AccountMeter, int]
"""An account, its meter, and the tokens that one request has taken from it."""


class RateLimiter:
    """The meters of all accounts; each limit is shared among `gateways` gateways (see `rate_sharing`)."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self.meters: dict[str, AccountMeter] = {}
        self.changed: set[str] = set()
        """Accounts whose meters have changed since the last exchange with other gateways."""
        self.gateways = 1

    def take(self, accounts: Sequence[Account], tokens: int) -> "RateLimitGrant":
        """Admit a request of about `tokens` tokens; raises `RateLimitError`, taking nothing, at a limit."""
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
            self.changed.add(account.id)
        return RateLimitGrant(self, taken, self._headers(taken, now_ns))

    def check(self, accounts: Sequence[Account], tokens: int) -> None:
        """Raise what `take` would raise for at least `tokens` tokens; takes nothing."""
        now_ns = self._clock_ns()
        for account in accounts:
            self._check(account, self.meter(account.id), tokens, now_ns)

    def share(self, limit: int) -> int:
        """Return this gateway's share of a limit."""
        return limit if self.gateways == 1 else max(1, limit // self.gateways)

    def correct(self, taken: Sequence[Taken], tokens: int | None) -> None:
        """Correct the estimate of an ended request to its `tokens`; None refunds the whole request."""
        now_ns = self._clock_ns()
        for account, meter, estimate in taken:
            meter.running -= 1
            self._change(meter, account.limits, -1 if tokens is None else 0, (tokens or 0) - estimate, now_ns)
            self.changed.add(account.id)

    def add_remote_use(self, account: str, limits: Limits, requests: int, tokens: int) -> None:
        """Take what another gateway has admitted from this gateway's buckets."""
        now_ns = self._clock_ns()
        meter = self.meter(account)
        if limits.rpm is not None:
            meter.requests.take(requests, limits.rpm, now_ns)
        if limits.tpm is not None:
            meter.tokens.take(tokens, limits.tpm, now_ns)

    def meter(self, account: str) -> AccountMeter:
        """Return the meter of an account, created on first use."""
        meter = self.meters.get(account)
        if meter is None:
            meter = self.meters[account] = AccountMeter()
        return meter

    def headers(self, accounts: Sequence[Account]) -> list[tuple[bytes, bytes]]:
        """Return OpenAI's `x-ratelimit-*` headers, for the bucket of each kind with the least remaining."""
        return self._headers([(account, self.meter(account.id), 0) for account in accounts], self._clock_ns())

    def _headers(self, taken: Sequence[Taken], now_ns: int) -> list[tuple[bytes, bytes]]:
        requests, tokens = [], []
        for account, meter, _ in taken:
            if (rpm := account.limits.rpm) is not None:
                requests.append(self._remaining(meter.requests, rpm, now_ns))
            if (tpm := account.limits.tpm) is not None:
                tokens.append(self._remaining(meter.tokens, tpm, now_ns))
        return [*_least(_REQUESTS, requests), *_least(_TOKENS, tokens)]

    def _remaining(self, bucket: Bucket, limit: int, now_ns: int) -> tuple[int, int, int]:
        remaining = bucket.remaining(self.share(limit), limit, now_ns)
        return max(0, remaining), limit, bucket.full_ns(limit)

    def _change(self, meter: AccountMeter, limits: Limits, requests: int, tokens: int, now_ns: int) -> None:
        if limits.rpm is not None:
            meter.requests.take(requests, limits.rpm, now_ns)
        if limits.tpm is not None:
            meter.tokens.take(tokens, limits.tpm, now_ns)
        meter.admitted_requests += requests
        meter.admitted_tokens += tokens

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
    """An admitted request until `end`; `headers` are the `x-ratelimit-*` headers of its response."""

    limiter: RateLimiter
    taken: Sequence[Taken]
    headers: list[tuple[bytes, bytes]]

    def end(self, tokens: int | None) -> None:
        """End the request with the tokens that it used; None, when it never reached an engine, refunds all of it."""
        self.limiter.correct(self.taken, tokens)


def _least(names: tuple[bytes, bytes, bytes], buckets: list[tuple[int, int, int]]) -> list[tuple[bytes, bytes]]:
    if not buckets:
        return []
    remaining, limit, reset_ns = min(buckets)
    return list(zip(names, (b"%d" % limit, b"%d" % remaining, duration(reset_ns).encode()), strict=True))


def duration(ns: int) -> str:
    """Format a duration as OpenAI does: `12ms`, `1.5s`, `6m0s`; rounded up."""
    ms = -(-ns // 1_000_000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    seconds = f"{ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


def _name(account: Account) -> str:
    return "this key" if account.id.startswith("key:") else "this key's tenant"
