"""Several gateways on one PostgreSQL share limits: what each hears of the others, and how far they can be off."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import create_engine, update

from gateway.auth import Account, Limits
from gateway.errors import GatewayError
from gateway.quota import RateLimiter
from gateway.quota.rate_limits import RateLimitGrant
from gateway.quota.rate_sharing import LimitSharing, limit_use
from tests.databases import Postgres
from tests.gateway.quota.manual_clock import Clock

RPM = 600
KEY = Account("key:k", Limits(rpm=RPM, tpm=6000, max_concurrency=10_000), ())


@dataclass
class Gateways:
    """Two limiters over one database, with one clock."""

    limiters: list[RateLimiter]
    sharing: list[LimitSharing]

    def beat(self) -> None:
        for one in self.sharing:
            asyncio.run(one.exchange())

    def rush(self, number: int, account: Account = KEY, tokens: int = 0) -> list[RateLimitGrant]:
        """As many requests as one gateway lets through."""
        takes = []
        try:
            while True:
                takes.append(self.limiters[number].take((account,), tokens))
        except GatewayError:
            return takes


@pytest.fixture
def gateways(postgres: Postgres, clock: Clock) -> Iterator[Gateways]:
    database = create_engine(postgres.migrated())
    limiters = [RateLimiter(clock), RateLimiter(clock)]
    two = Gateways(limiters, [LimitSharing(database, f"run{n}", one) for n, one in enumerate(limiters)])
    for _ in range(2):
        two.beat()
    yield two
    database.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("busy", [(0, 1), (0,)])
def test_together_they_let_through_the_limit_and_a_beat_of_it_more_at_the_most(
    gateways: Gateways, clock: Clock, busy: tuple[int, ...]
) -> None:
    passed, beats = 0, 300
    for beat in range(1, beats + 1):
        for number in busy:
            takes = gateways.rush(number)
            passed += len(takes)
            for take in takes:
                take.end(0)
        assert passed <= RPM + (beat - 1) * RPM / 60 + RPM / 60 + 1
        clock.pass_s(1)
        gateways.beat()
    assert passed >= beats * RPM / 60 - RPM / 60  # and in the long run all of the limit is used


def test_remote_use_is_corrected_like_local_use(gateways: Gateways) -> None:
    gateways.limiters[0].take((KEY,), 2000)
    gateways.beat()
    told = dict(gateways.limiters[1].headers((KEY,)))
    assert told[b"x-ratelimit-remaining-tokens"] == b"1000"  # its half, less what went elsewhere
    assert told[b"x-ratelimit-remaining-requests"] == b"299"


def test_places_are_shared_and_those_of_a_dead_gateway_come_back(gateways: Gateways, clock: Clock) -> None:
    narrow = Account("key:n", Limits(max_concurrency=3), ())
    assert len(gateways.rush(0, narrow)) == 3
    gateways.beat()
    gateways.beat()
    assert gateways.rush(1, narrow) == []
    database, use = gateways.sharing[0]._database, limit_use.c
    with database.begin() as connection:  # the first gateway has said nothing for six seconds
        aged = update(limit_use).where(use.gateway == "run0").values(seen_us=use.seen_us - 6 * 10**6)
        connection.execute(aged)
    gateways.limiters.append(RateLimiter(clock))
    asyncio.run(LimitSharing(database, "run2", gateways.limiters[2]).exchange())
    assert gateways.limiters[2].gateways == 2
    assert len(gateways.rush(2, narrow)) == 3


def test_a_gateway_that_joins_does_not_pay_for_the_past(gateways: Gateways, clock: Clock) -> None:
    for take in gateways.rush(0):
        take.end(0)
    gateways.beat()
    late = RateLimiter(clock)
    joined = LimitSharing(gateways.sharing[0]._database, "late", late)
    asyncio.run(joined.exchange())
    assert late.gateways == 3
    assert dict(late.headers((KEY,)))[b"x-ratelimit-remaining-requests"] == b"200"
    gateways.sharing[0].leave()
    asyncio.run(joined.exchange())
    assert late.gateways == 2


def test_a_request_of_absurdly_many_tokens_does_not_stop_the_exchange(gateways: Gateways) -> None:
    absurd = Account("key:absurd", Limits(rpm=RPM), ())
    gateways.limiters[0].take((absurd,), 2**64 * 128)
    assert len(gateways.rush(0)) == RPM // 2
    gateways.beat()
    assert gateways.rush(1) == [], "what the other let through was heard of"


def age(gateways: Gateways, run: str, by_s: int) -> None:
    """Let the rows of a gateway look as if it had said nothing for a while."""
    use = limit_use.c
    with gateways.sharing[0]._database.begin() as connection:
        aged = update(limit_use).where(use.gateway == run).values(seen_us=use.seen_us - by_s * 10**6)
        connection.execute(aged)


@pytest.mark.parametrize("how", ["left", "died"])
def test_a_gateway_that_is_gone_is_forgotten(gateways: Gateways, clock: Clock, how: str) -> None:
    for number in range(5):
        limiter = RateLimiter(clock)
        joined = LimitSharing(gateways.sharing[0]._database, f"short{number}", limiter)
        limiter.take((KEY,), 1)
        asyncio.run(joined.exchange())
        gateways.beat()
        assert set(gateways.sharing[0]._counted) == {(f"short{number}", KEY.id)}
        if how == "left":
            joined.leave()
        else:
            age(gateways, f"short{number}", 601)
        gateways.beat()
        assert gateways.sharing[0]._counted == {}
        assert gateways.limiters[0].gateways == 2
    assert dict(gateways.limiters[0].headers((KEY,)))[b"x-ratelimit-remaining-requests"] == b"295"


def test_a_gateway_that_hung_for_long_costs_the_others_no_more_than_a_minute(gateways: Gateways, clock: Clock) -> None:
    for _ in range(10):
        for take in gateways.rush(1):
            take.end(100)
        clock.pass_s(60)
    gateways.beat()
    gateways.beat()
    age(gateways, "run1", 601)
    asyncio.run(gateways.sharing[0].exchange())
    clock.pass_s(60)
    gateways.limiters[1].take((KEY,), 1)
    gateways.beat()
    gateways.beat()
    clock.pass_s(60)
    told = dict(gateways.limiters[0].headers((KEY,)))
    assert told[b"x-ratelimit-remaining-requests"] == b"300"
    assert told[b"x-ratelimit-remaining-tokens"] == b"3000"
