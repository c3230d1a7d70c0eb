"""The allowance: what a caller may still use, taken before its request runs and settled when that has ended.

A caller without accounts (the admin key, a mirrored request) passes without a look.
"""

from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Counter

from gateway.auth import Account, Caller
from gateway.clock import DAY_US, now_us
from gateway.costs.request_price import WorkPrice
from gateway.errors import GatewayError, InvalidRequestError
from gateway.inference.formats import Api
from gateway.inference.relay import RequestContext
from gateway.metering import Entry
from gateway.quota import Budgets, RateLimiter, RateLimitGrant, RequestSize, Reservation, measure_request
from gateway.quota.errors import BudgetUncheckedError, RateLimitError


class QuotaManager:
    """Admits requests; `context_tokens` tells how long prompt and answer can be together, None when nobody knows."""

    def __init__(
        self,
        limiter: RateLimiter,
        budgets: Budgets,
        context_tokens: Callable[[], Awaitable[int | None]],
        registry: CollectorRegistry,
    ) -> None:
        self.limiter = limiter
        self.budgets = budgets
        self._context_tokens = context_tokens
        self._refusals = Counter(
            "turntable_limit_refusals", "Requests refused by limits and budgets.", ("reason",), registry=registry
        )

    def admit(self, call: RequestContext, price: WorkPrice) -> "QuotaGrant":
        """A context for the life of a request; entering it raises an error of `limit_errors`, having taken nothing."""
        return QuotaGrant(self, call, price)

    def refuse_early(self, caller: Caller, api: Api, headers: list[tuple[bytes, bytes]]) -> None:
        """Raise what `admit` would raise whatever the request's body says; takes nothing."""
        if not caller.accounts:
            return
        try:
            self.limiter.check(caller.accounts, 1 if api.metered else 0)
            if api.metered:
                self.budgets.refuse_spent(caller.accounts, now_us())
        except GatewayError as error:
            self._refused(caller, headers, error)
            raise

    async def take(
        self, call: RequestContext, price: WorkPrice, at_us: int
    ) -> tuple[RateLimitGrant, Reservation | None]:
        """Everything a request may use, or nothing."""
        accounts = call.caller.accounts
        own = [account.limits.max_tokens for account in accounts if account.limits.max_tokens is not None]
        most = min(own, default=None)
        try:
            context = None if most is None else await self._context_tokens()
            demand = measure_request(call.api, call.request, most, context)
            take = self.limiter.take(accounts, demand.likely_tokens() if call.api.metered else 0)
            call.limit_headers += take.headers
            try:
                return take, await self._reserve(call, accounts, demand, price, at_us)
            except BaseException:
                take.end(None)
                raise
        except GatewayError as error:
            self._refused(call.caller, call.limit_headers, error)
            raise

    async def _reserve(
        self, call: RequestContext, accounts: Sequence[Account], demand: RequestSize, price: WorkPrice, at_us: int
    ) -> Reservation | None:
        if not call.api.metered or not any(account.budgets for account in accounts):
            return None
        answer = demand.most_answer_tokens(None)
        context = None if answer is not None else await self._context_tokens()
        if answer is None and (answer := demand.most_answer_tokens(context)) is None:
            raise InvalidRequestError(
                "This key has a budget, and nothing says how long the answer may become; name a maximum of tokens.",
                param="max_tokens",
            )
        most = price.most_nano_usd(demand.most_prompt_tokens(context), answer)
        if most is None:
            raise BudgetUncheckedError(
                "This key has a budget, and nobody has stated what an engine costs here. The operator states it with "
                "`turntable serve --engine-usd-per-hour`, or in costs.toml.",
                reason="unpriced",
                retry_after_s=30,
            )
        return await self.budgets.reserve(accounts, at_us, most)

    def _refused(self, caller: Caller, headers: list[tuple[bytes, bytes]], error: GatewayError) -> None:
        reason = getattr(error, "reason", None) or ("max_tokens" if error.code == "max_tokens_exceeded" else None)
        if reason is not None:
            self._refusals.labels(reason).inc()
        if isinstance(error, RateLimitError) and not any(name.startswith(b"x-ratelimit") for name, _ in headers):
            headers += self.limiter.headers(caller.accounts)


class QuotaGrant:
    """One request's allowance: taken on entering; settled by `settle`, or given back whole on leaving without it."""

    __slots__ = ("_allowance", "_at_us", "_call", "_is_kept", "_reservation", "_take", "price")

    def __init__(self, allowance: QuotaManager, call: RequestContext, price: WorkPrice) -> None:
        self._allowance = allowance
        self._call = call
        self.price = price
        """The price of work for the whole request, whatever becomes of prices meanwhile."""
        self._at_us = 0
        self._take: RateLimitGrant | None = None
        self._reservation: Reservation | None = None
        self._is_kept = False

    async def __aenter__(self) -> "QuotaGrant":
        if self._call.caller.accounts:
            self._at_us = now_us()
            self._take, self._reservation = await self._allowance.take(self._call, self.price, self._at_us)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._take is not None and not self._is_kept:
            self._end(None, 0)

    def keep(self, entry: Entry) -> None:
        """Give back the place of a request that has ended, and hold its money until `settle` is called."""
        if self._take is not None:
            self._take.end(_tokens(entry))
            self._is_kept = True

    def begin(self, entry: Entry) -> None:
        """Note on a row who pays for it. One that waited until after midnight belongs to the day of its money."""
        if self._take is not None:
            entry.is_charged = self._call.api.metered
            first_us = self._at_us // DAY_US * DAY_US
            entry.opened_us = min(max(entry.opened_us, first_us), first_us + DAY_US - 1)

    def settle(self, entry: Entry) -> None:
        """The request has ended: what the engine never saw counts for nothing."""
        if self._take is not None:
            self._end(_tokens(entry), entry.cost_nano_usd or 0)

    def _end(self, tokens: int | None, cost_nano_usd: int) -> None:
        assert self._take is not None, "entered, and not ended yet"
        if not self._is_kept:
            self._take.end(tokens)
        if self._reservation is not None:
            self._reservation.settle(cost_nano_usd)
        self._take = self._reservation = None


def _tokens(entry: Entry) -> int | None:
    """What a request counts for; None when no engine saw it."""
    return None if entry.engine is None else entry.usage.prompt_tokens + entry.usage.completion_tokens
