"""Quota manager: grant a request its rate limits and its budgets before it runs, all of them or none.

A caller without accounts (the admin key, a shadow request) needs no grant.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from gateway.auth import Caller
from gateway.clock import DAY_US, now_us
from gateway.core import RequestContext
from gateway.costs.request_price import WorkPrice
from gateway.errors import GatewayError, InvalidRequestError
from gateway.metering import LedgerEntry
from gateway.quota import Budgets, RateLimiter, RateLimitGrant, RequestSize, Reservation, measure_request
from gateway.quota.errors import BudgetUncheckedError, RateLimitError


class QuotaManager:
    """Check rate limits and budgets; `context_tokens` returns the engines' context length, None when unknown."""

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

    def refuse_early(self, context: RequestContext) -> None:
        """Raise before the body is read what `admit` would raise for any body; takes nothing."""
        caller, api = context.caller, context.api
        if not caller.accounts:
            return
        try:
            self.limiter.check(caller.accounts, 1 if api.metered else 0)
            if api.metered:
                self.budgets.refuse_spent(caller.accounts, now_us())
        except GatewayError as error:
            self._count_refusal(caller, context.response_headers, error)
            raise

    async def admit(self, context: RequestContext, price: WorkPrice) -> "QuotaGrant | None":
        """Take a request's share of rate limits and budgets; returns None for a caller without accounts.

        Writes the key's maximum of tokens onto the request and the limits' headers onto the context. Raises an error
        of `gateway.quota.errors`, having taken nothing. `QuotaGrant.settle` or `cancel` must follow.
        """
        caller, request, headers = context.caller, context.request, context.response_headers
        if not caller.accounts:
            return None
        at_us = now_us()
        maxima = [account.limits.max_tokens for account in caller.accounts if account.limits.max_tokens is not None]
        max_tokens = min(maxima, default=None)
        try:
            context_tokens = None if max_tokens is None else await self._context_tokens()
            size = measure_request(context.api, request, max_tokens, context_tokens)
            rate = self.limiter.take(caller.accounts, size.likely_tokens() if context.api.metered else 0)
            headers += rate.headers
            try:
                reservation = await self._reserve(context, size, price, at_us)
            except BaseException:
                rate.end(None)
                raise
        except GatewayError as error:
            self._count_refusal(caller, headers, error)
            raise
        request.token_limit = size.added_limit
        return QuotaGrant(rate, reservation, at_us, is_charged=context.api.metered)

    async def _reserve(
        self, context: RequestContext, size: RequestSize, price: WorkPrice, at_us: int
    ) -> Reservation | None:
        """Reserve the most that a request can cost in every budget of its caller; None without budgets."""
        accounts = context.caller.accounts
        if not context.api.metered or not any(account.budgets for account in accounts):
            return None
        answer_tokens = size.most_answer_tokens(None)
        context_tokens = None if answer_tokens is not None else await self._context_tokens()
        if answer_tokens is None and (answer_tokens := size.most_answer_tokens(context_tokens)) is None:
            raise InvalidRequestError(
                "This key has a budget, and nothing limits the length of the answer; set a maximum of tokens.",
                param="max_tokens",
            )
        most_nano_usd = price.most_nano_usd(size.most_prompt_tokens(context_tokens), answer_tokens)
        if most_nano_usd is None:
            raise BudgetUncheckedError(
                "This key has a budget, and the price of an engine hour is not configured. Set it with "
                "`turntable serve --engine-usd-per-hour`, or in costs.toml.",
                reason="unpriced",
                retry_after_s=30,
            )
        return await self.budgets.reserve(accounts, at_us, most_nano_usd)

    def check_again(self, context: RequestContext, grant: "QuotaGrant") -> None:
        """Raise `BudgetSpentError` when a budget no longer covers what was reserved for a request that waited."""
        reserved = 0 if grant.reservation is None else grant.reservation.nano_usd
        try:
            if grant.is_charged:
                self.budgets.check_reserved(context.caller.accounts, grant.at_us, reserved)
        except GatewayError as error:
            self._count_refusal(context.caller, context.response_headers, error)
            raise

    def _count_refusal(self, caller: Caller, headers: list[tuple[bytes, bytes]], error: GatewayError) -> None:
        reason = getattr(error, "reason", None) or ("max_tokens" if error.code == "max_tokens_exceeded" else None)
        if reason is not None:
            self._refusals.labels(reason).inc()
        if isinstance(error, RateLimitError) and not any(name.startswith(b"x-ratelimit") for name, _ in headers):
            headers += self.limiter.headers(caller.accounts)


@dataclass(slots=True)
class QuotaGrant:
    """A request's share of its rate limits and budgets, taken at `at_us`; `settle` or `cancel` ends it once.

    `release_rate` may come first, for a request that has ended while its cost is not known yet.
    """

    rate: RateLimitGrant | None
    reservation: Reservation | None
    at_us: int
    is_charged: bool
    """Whether its key and tenant pay for it."""

    def date(self, entry: LedgerEntry) -> None:
        """Set on a ledger row whether it is charged, and move it into the day of the reservation.

        A request that waited past midnight otherwise belonged to the next day.
        """
        entry.is_charged = self.is_charged
        first_us = self.at_us // DAY_US * DAY_US
        entry.opened_us = min(max(entry.opened_us, first_us), first_us + DAY_US - 1)

    def release_rate(self, entry: LedgerEntry) -> None:
        """Correct the rate limits to the tokens of an ended request, and hold its money until `settle`."""
        self._end_rate(None if entry.engine is None else entry.usage.prompt_tokens + entry.usage.completion_tokens)

    def settle(self, entry: LedgerEntry) -> None:
        """Charge an ended request; one that never reached an engine is refunded."""
        try:
            self.release_rate(entry)
        finally:
            self._end_reservation(entry.cost_nano_usd or 0)

    def cancel(self) -> None:
        """Refund everything, unless the request has been settled or will be, after `release_rate`."""
        if self.rate is not None:
            try:
                self._end_rate(None)
            finally:
                self._end_reservation(0)

    def _end_rate(self, tokens: int | None) -> None:
        rate, self.rate = self.rate, None
        if rate is not None:
            rate.end(tokens)

    def _end_reservation(self, cost_nano_usd: int) -> None:
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            reservation.settle(cost_nano_usd)
